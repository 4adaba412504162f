"""The benchmarks run, and count right; how long anything takes is not tested."""

from __future__ import annotations

import importlib
import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

TINY = [
    "--data.prompts_per_iteration=2",
    "--model.group_size=4",
    "--model.inner_epochs=2",
    "--model.updates_per_epoch=1",
    "--model.microbatch_size=3",
    "--model.policy.num_steps=4",
    "--model.policy.step_window.size=2",
    "--model.policy.step_window.start_min=1",
    "--model.policy.step_window.start_max=1",
    "--model.policy.samples_per_noise=2",
    "--model.policy.rollout_batch_size=6",
    "--model.policy.backbone.guidance_scale=2",
    "--model.objective.kl_coef=0.1",
    "--model.metrics=null",
    "--loggers.wandb=null",
]
ROWS = {
    "rollout": 2 * 2 * (2 * 1 + 4 * 3),  # guidance x prompts x (2 noises for 1 step, then 4 samples for 3)
    "reference": 2 * 2 * 4 * 2,  # guidance x prompts x group x decisions
    "update": 2 * 2 * 4 * 2 * 2,  # twice that, for two inner epochs
}


@pytest.fixture
def benchmark_module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a file of ``experiments/benchmarks`` as a script there finds it."""
    monkeypatch.syspath_prepend(ROOT / "experiments" / "benchmarks")
    return importlib.import_module


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON of a tiny iteration of the default recipe, after the one that warms up."""
    folder = tmp_path_factory.mktemp("benchmark")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.syspath_prepend(ROOT / "experiments" / "benchmarks")
        assert importlib.import_module("grpo_iteration").main(["--iterations=1", f"--output={folder}", *TINY]) == 0
    return json.loads((folder / "grpo_iteration.json").read_text())


def test_each_transformer_row_is_counted_and_foretold(result: dict[str, Any]) -> None:
    assert result["rows"] == result["predicted_rows"] == [ROWS]
    assert result["transformer_evals"] == [sum(ROWS.values())]


def test_phases_and_parts_are_told_apart(result: dict[str, Any]) -> None:
    scoring = {"other", "scoring", "text encoding", "transformer"}
    assert {phase: set(parts) for phase, parts in result["seconds"].items()} == {
        "rest": {"other"},
        "rollout": {"other", "text encoding", "transformer", "VAE decode"},
        "reward": {"other", "omniaid", "alignment"},
        "reference": scoring,
        "update": scoring | {"backward", "optimizer"},
    }


def test_bare_calls_are_the_calls_of_the_iteration(result: dict[str, Any]) -> None:
    """Matrix products of the calls made again, counted by torch, against those of the iteration."""
    flops = result["first_iteration_flops"]
    phases, rows = flops["phases"], flops["rows"]
    assert rows == ROWS
    assert flops["bare"] == {
        "rollout": phases["rollout"]["transformer"],
        "reference": phases["reference"]["transformer"],
        "update": phases["update"]["transformer"] + phases["update"]["backward"],
    }
    per_row = {phase: phases[phase]["transformer"] / rows[phase] for phase in ROWS}
    assert per_row["rollout"] == per_row["update"] > per_row["reference"] > 0  # the reference has no adapters
    assert phases["update"]["backward"] > 0


def test_a_wrong_key_is_an_error_of_the_command_line(
    repository: Path, benchmark_module: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark_module("grpo_iteration").main(["--model.group_sice=4"]) == 1
    assert "group_size" in capsys.readouterr().err


def test_time_goes_to_the_innermost_section(benchmark_module: Any) -> None:
    measuring = benchmark_module("measuring")
    timeline = measuring.Timeline(measuring.Clock(count().__next__, list))  # each mark is one tick later
    for name in ("iteration", "rollout", "transformer"):
        timeline.enter(name)
    for _ in range(3):
        timeline.leave()
    assert timeline.take() == {"rest": {"other": 2}, "rollout": {"other": 2, "transformer": 1}}


REWRITING = [
    "--data.prompts_per_iteration=2",
    "--model.group_size=4",
    "--model.microbatch_size=4",
    "--model.policy.max_tokens=12",
    "--model.policy.images_per_rewrite=2",
    "--model.policy.raw_per_group=1",
    "--model.policy.rollout_batch_size=3",
    "--model.policy.image_policy.eval_num_steps=3",
    "--model.objective.kl=k3",
    "--model.objective.kl_coef=0.1",
    "--model.metrics=null",
    "--loggers.wandb=null",
]


@pytest.fixture(scope="module")
def rewriting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON of a tiny rewriting iteration of the default recipe, after the one that warms up."""
    folder = tmp_path_factory.mktemp("rewriting")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.syspath_prepend(ROOT / "experiments" / "benchmarks")
        main = importlib.import_module("rewriting_iteration").main
        assert main(["--iterations=1", f"--output={folder}", *REWRITING]) == 0
    return json.loads((folder / "rewriting_iteration.json").read_text())


@pytest.mark.slow
def test_what_a_rewriting_iteration_makes_is_counted(rewriting: dict[str, Any]) -> None:
    (counts,) = rewriting["counts"]
    assert counts["asked"] == 2 * (4 - 1)  # prompts x (group without the raw one)
    assert counts["images"] == 2 * 4 * 2  # prompts x group x images of each rewrite
    assert counts["transformer_evals"] == counts["images"] * 3 * rewriting["setting"]["image_policy"]["evals_per_row"]
    assert 2 * 3 <= counts["tokens"] <= 2 * 3 * 12
    assert rewriting["setting"]["engine"] == "TransformersEngine"


@pytest.mark.slow
def test_phases_of_a_rewriting_iteration_are_told_apart(rewriting: dict[str, Any]) -> None:
    assert {phase: set(parts) for phase, parts in rewriting["seconds"].items()} == {
        "rest": {"other"},
        "rollout": {"other", "writing", "scoring", "drawing", "text encoding", "transformer", "VAE decode"},
        "reward": {"other", *rewriting["setting"]["rewards"]},
        "reference": {"other", "scoring"},
        "update": {"other", "scoring", "backward", "optimizer"},
    }
    shares = [share["median"] for parts in rewriting["shares"].values() for share in parts.values()]
    assert sum(shares) == pytest.approx(1)


@pytest.mark.slow
def test_speeds_are_counts_over_the_seconds_of_their_parts(rewriting: dict[str, Any]) -> None:
    (counts,), rollout = rewriting["counts"], rewriting["seconds"]["rollout"]
    drawing = sum(rollout[part]["median"] for part in ("drawing", "text encoding", "transformer", "VAE decode"))
    assert rewriting["tokens_per_second"]["median"] == pytest.approx(counts["tokens"] / rollout["writing"]["median"])
    assert rewriting["images_per_second"]["median"] == pytest.approx(counts["images"] / drawing)


@pytest.mark.slow
def test_a_policy_that_does_not_rewrite_is_refused(repository: Path, benchmark_module: Any) -> None:
    with pytest.raises(ValueError, match=r"model.policy must be a PromptPolicy, got DiffusionPolicy"):
        benchmark_module("rewriting_iteration").main(["--config=configs/diffusion.yaml", "--iterations=1", *TINY])
