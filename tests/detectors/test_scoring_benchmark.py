"""The benchmark of detector scoring runs, and its two ways to score agree; how long they take is not tested."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "experiments" / "benchmarks"
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 56}


@pytest.mark.parametrize(
    "build", [{"preprocess": "v1"}, {"router_input": "frozen_tower", "rank": 4}, {"hybrid": False}]
)
def test_both_ways_give_the_same_answers(tmp_path, monkeypatch, capsys, build):
    monkeypatch.syspath_prepend(BENCHMARKS)
    benchmark = importlib.import_module("detector_scoring")
    numbers = json.dumps({**TINY, **build})
    arguments = ["--pixels=100", "--batch_size=4", "--forward_size=3", "--rounds=2", f"--config={numbers}"]
    assert benchmark.main([*arguments, f"--output={tmp_path}"]) == 0
    result = json.loads((tmp_path / "detector_scoring.json").read_text())
    differences = result["largest_difference"]
    assert result["spread_of_answers"] > 0.003
    assert differences["to one by one, which goes through Pillow"] < 0.003
    assert differences["of the batch to our own one by one"] < 1e-5
    assert {name: len(values) for name, values in result["seconds"].items()} == {
        "one by one": 2,
        "ours": 2,
        "ours in bfloat16": 2,
    }
    assert "pair by pair" in capsys.readouterr().out
