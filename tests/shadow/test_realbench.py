"""``realgen.realbench`` on the shadow GPU: it draws, scores with detectors, rewards and distances, and reports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from realgen.benchmark.results import read_results
from realgen.realbench import main
from tests.helpers.shadow_device import shadow_device
from tests.helpers.tiny_pipelines import SIZE
from tests.helpers.toy_bench import write_bench
from tests.policies.conftest import tiny as tiny  # the fixture


def test_a_policy_is_drawn_with_and_scored(
    tiny: Callable[[str], str], nano: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REALGEN_TRACEBACK", "1")
    policy = [
        "policies.tiny=configs/policies/sd3_nano.yaml",
        f"policies.tiny.backbone.pretrained={tiny('sd3')}",
        "policies.tiny.eval_num_steps=2",
        *(f"policies.tiny.{side}={SIZE}" for side in ("height", "width")),
    ]
    scored = [
        "detectors.omniaid=configs/detectors/omniaid.yaml",
        "rewards.alignment=realgen.rewards.Alignment",
        f"rewards.alignment.model={nano / 'clip'}",
        "metrics.kid=configs/metrics/kid.yaml",
        "metrics.color=configs/metrics/color_distance.yaml",
    ]
    few = [f"prompts={write_bench(tmp_path / 'bench')}", "scoring.resamples=5", "draw_batch_size=2", "num_prompts=2"]
    argv = [f"--{each}" for each in (*policy, *scored, *few, f"run_dir={tmp_path / 'run'}")]
    with shadow_device() as traffic:
        assert main([*argv, "--device=cuda"]) == 0
    (on_gpu,) = read_results(tmp_path / "run").models
    assert {"realgen/benchmark/inputs/drawing.py", "realgen/detectors/base.py", "realgen/metrics/base.py"} <= {
        event.where.partition(":")[0] for event in traffic.events if event.copied
    }
    assert main([*argv, "--device=cpu"]) == 0  # the images are kept, and scored anew
    (on_cpu,) = read_results(tmp_path / "run").models
    assert (
        on_gpu.scores.keys() == on_cpu.scores.keys() == {"omniaid", "omniaid_judged_real", "alignment", "kid", "color"}
    )
    for name, score in on_gpu.scores.items():
        assert score.value == pytest.approx(on_cpu.scores[name].value, rel=1e-3, abs=1e-4), name
