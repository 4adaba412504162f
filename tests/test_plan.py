"""The command that plans: what it tells, and what it refuses."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from realgen.plan import main
from realgen.planning.architecture import Architecture, find_architecture

ROOT = Path(__file__).resolve().parent.parent
NANO = ["--config", "configs/diffusion.yaml"]
SMALL = [
    *("--model.policy.num_steps=4", "--model.policy.step_window.size=2", "--model.policy.step_window.start_max=2"),
    *("--model.policy.height=32", "--model.policy.width=32", "--model.microbatch_size=12"),
]
LOGGED = {"seconds/rollout": 3.0, "seconds/reward": 0.5, "seconds/reference": 1.0, "seconds/update": 1.5}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def write_log(run: Path) -> None:
    """Three iterations, the first one slow, and a validation between them."""
    folder = run / "csv" / "version_0"
    folder.mkdir(parents=True)
    with (folder / "metrics.csv").open("w", newline="") as file:
        log = csv.DictWriter(file, ["step", *LOGGED, "transformer_evals", "gpu_peak_gib", "val/reward"])
        log.writeheader()
        log.writerow({"step": 0, "val/reward": 0.5})
        for step, factor in ((1, 10), (2, 1), (3, 1)):
            times = {name: factor * seconds for name, seconds in LOGGED.items()}
            log.writerow({"step": step, **times, "transformer_evals": 700.0, "gpu_peak_gib": 0.25})


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The recipe on four GPUs, with what a run has measured, as a text and for machines."""
    folder = tmp_path_factory.mktemp("planned")
    write_log(folder / "run")
    sharded = ["--trainer.devices=4", "--trainer.num_nodes=2", "--trainer.strategy=configs/strategies/fsdp2.yaml"]
    options = [
        "--gpu",
        "h200",
        "--utilization=0.5",
        "--measured",
        str(folder / "run"),
        "--json",
        str(folder / "plan.json"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        lines: list[str] = []
        patch.setattr("rich.console.Console.print", lambda _, *parts, **__: lines.extend(map(str, parts)))
        assert main([*NANO, *SMALL, *sharded, *options]) == 0
    return {"text": "\n".join(lines), **json.loads((folder / "plan.json").read_text())}


def test_memory_is_spread_over_the_ranks(planned: dict[str, Any]) -> None:
    sizes, trained, ranks = planned["memory"]["sizes"], planned["trained"], 8
    assert planned["ranks"] == ranks
    assert sizes["trained weights"] == 4 * trained // ranks
    read = sum(sizes[name] for name in ("text encoders", "VAE", "rewards", "metrics' networks"))  # whole, by every rank
    assert planned["memory"]["host"] == pytest.approx(
        read + ranks * (sizes["frozen weights"] + sizes["trained weights"]), abs=2 * ranks
    )
    assert sizes["moving averages"] == 4 * trained // ranks
    assert sizes["optimizer state"] == pytest.approx(2 * 4 * trained / ranks, rel=0.01)  # two moments, and counters
    assert sizes["gradients"] == 4 * trained  # whole until the last of several microbatches
    assert 0 < sizes["gathered weights"] < 4 * planned["parameters"]
    latents = 6 * 12 * ((2 + 1) + 2 + 2 + 2 + 2)  # those of the window, means and velocities, and the reference's
    assert sizes["trajectories"] == latents * 8 * 8 * 8 * 4
    assert sizes["images"] == 6 * 12 * 3 * 32 * 32 * 4
    assert planned["memory"]["peak"] == max(planned["memory"]["peaks"].values())


def test_seconds_are_flops_over_the_rate_that_is_reached(planned: dict[str, Any]) -> None:
    rates = {"bf16": 989.4e12, "tf32": 494.7e12, "fp32": 66.9e12}
    for row in planned["rows"]:
        flops = sum(flops / (0.5 * rates[rate]) for rate, flops in row["work"].items())
        assert row["seconds"] == pytest.approx(flops)
    whole = sum(row["seconds"] for row in planned["rows"])
    assert planned["iteration_seconds"] == pytest.approx(whole)
    images = 6 * 12 * 8
    assert planned["images"] == images
    assert planned["hours_per_1000_images"] == pytest.approx(whole / images * 1000 / 3600)


def test_a_run_stands_beside_its_plan(planned: dict[str, Any]) -> None:
    measured = planned["measured"]
    assert measured["seconds"] == {name.removeprefix("seconds/"): value for name, value in LOGGED.items()}
    assert (measured["iterations"], measured["iteration_seconds"]) == (2, 6.0)
    assert (measured["evals"], measured["peak"]) == (700.0, 0.25 * 2**30)
    assert "6 seconds[/] measured (median of 2 iterations), 700 transformer evaluations" in planned["text"]


def test_it_says_what_was_assumed_and_what_may_be_wrong(planned: dict[str, Any]) -> None:
    assert "50% of these rates are reached (--utilization)" in planned["text"]
    assert "config.json of data/nano/sd3, from its folder" in planned["text"]
    assert planned["warnings"] == []
    assert "everything else is part of the utilization" in planned["text"]


def test_warnings_and_a_rate_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["--model.policy.step_window.start_max=0", "--model.reward=configs/rewards/jpeg_size.yaml"]
    assert main([*NANO, *SMALL, *changes, "--tflops=0.1", "--gpu=rtx4090", "--model.policy.decode_batch_size=9"]) == 0
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "steps 2-3 of 4 are never inside the window, and never trained" in printed
    assert "reward jpegsize is counted neither in seconds nor in memory: a plan does not know" in printed
    assert "not counted not counted" in printed
    assert "0.1 TFLOP/s in bfloat16" in printed


def plan_of(folder: Path, *arguments: str) -> dict[str, Any]:
    """What the command writes for machines."""
    assert main([*NANO, *SMALL, *arguments, "--json", str(folder / "plan.json")]) == 0
    return json.loads((folder / "plan.json").read_text())


def test_tf32_is_faster(tmp_path: Path) -> None:
    half = ("--model.policy.backbone.dtype=bfloat16", "--gpu=a100-80")
    plain = plan_of(tmp_path, *half)
    rounded = plan_of(tmp_path, *half, "--float32_matmul_precision=high")
    assert (plain["gpu"]["fp32"], rounded["gpu"]["fp32"]) == (19.5, 156.0)
    assert rounded["iteration_seconds"] < plain["iteration_seconds"]


OTHER_ROWS = "products of other sizes round differently"


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        (["--model.policy.backbone.dtype=bfloat16"], "have 36 rows in the rollout and 24 in the update"),
        (["--trainer.precision=bf16-mixed"], "and 24 in the update"),
        (["--model.policy.backbone.dtype=bfloat16", "--model.policy.rollout_batch_size=24"], None),
        (["--model.policy.backbone.dtype=bfloat16", "--model.old_log_probs=rescored"], None),
        (
            [
                "--model.policy.backbone.dtype=bfloat16",
                "--model.old_log_probs=update",
                "--model.updates_per_epoch=1",
            ],
            None,
        ),
        (["--model.policy.rollout_batch_size=auto"], None),
    ],
)
def test_calls_that_round_differently_are_told(changes: list[str], rows: str | None, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, *changes)
    told = [warning for warning in plan["warnings"] if OTHER_ROWS in warning]
    assert len(told) == (rows is not None)
    assert rows is None or rows in told[0]
    measured = "taken for granted: the rollout_batch_size that a run will measure is 64"
    assert (measured in plan["assumptions"]) == any(change.endswith("=auto") for change in changes)


def full_size(names: str, folder: Path, *words: str) -> dict[str, Any]:
    """The plan of a recipe with its variant."""
    configs = [f"--config=configs/{name}.yaml" for name in names.split()]
    assert main([*configs, *words, "--gpu=h100", "--json", str(folder / "plan.json")]) == 0
    return json.loads((folder / "plan.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("names", ["diffusion_qwen_image", "diffusion_flux variants/one_gpu"])
def test_full_size_recipes_fit_80_gb(names: str, tmp_path: Path) -> None:
    """The largest model, and the one that has no other GPU to share with; tests/test_docs.py plans Flux on eight."""
    plan = full_size(names, tmp_path)
    assert not [warning for warning in plan["warnings"] if OTHER_ROWS in warning]
    assert plan["memory"]["peak"] < (60 if "one_gpu" in names else 72) * 2**30


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [
        *("diffusion_flux", "diffusion_sd35", "diffusion_z_image"),
        *("diffusion_flux variants/flux_realgen_v1", "diffusion_z_image variants/z_image_turbo"),
    ],
)
def test_the_others_call_alike_in_rollout_and_update(
    names: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of a call ask for no reward, and not how many layers the model has, so it has few."""

    def few_layers(pretrained: str) -> Architecture:
        found = find_architecture(pretrained)
        parts = {name: replace(part, config=shallow(part.config)) for name, part in found.components.items()}
        return replace(found, components=parts)

    def shallow(config: Mapping[str, Any]) -> dict[str, Any]:
        layers = re.compile(r"num_(single_)?layers|num_hidden_layers|n_layers|num_decoder_layers")
        return {key: min(value, 2) if layers.fullmatch(key) and value else value for key, value in config.items()}

    monkeypatch.setattr("realgen.planning.plan.find_architecture", few_layers)
    plan = full_size(names, tmp_path, "--model.reward=configs/rewards/jpeg_size.yaml", "--model.metrics=null")
    assert not [warning for warning in plan["warnings"] if OTHER_ROWS in warning]
    assert plan["parameters"] < 2e9


def test_what_a_reward_is_counted_as_is_told(tmp_path: Path) -> None:
    rating = "{class_path: realgen.rewards.VlmRating, init_args: {pretrained: data/nano/forensic_chat}}"
    plan = plan_of(tmp_path, f"--model.reward={rating}", "--gpu=h200")
    (row,) = (row for row in plan["rows"] if row["phase"] == "reward")
    assert row["work"]["bf16"] == pytest.approx(6 * 12 * 75.6e6)
    assert row["seconds"] > 0
    assert "taken for granted: reward vlmrating is counted as the embedded Forensic-Chat" in plan["assumptions"]


def test_what_a_plan_cannot_price_is_told_with_its_worth(tmp_path: Path) -> None:
    solver = "{class_path: realgen.policies.solvers.LowPrecision, init_args: {dtype: bfloat16}}"
    told = "\n".join(plan_of(tmp_path, f"--model.policy.solver={solver}", "--model.refill.rounds=3")["assumptions"])
    assert "LowPrecision (approximate); 50% of the rollout's steps multiply in bfloat16, worth at most half" in told
    assert "model.refill, which samples and scores again up to 3 times an iteration" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*NANO, "--gpu=h2000"], "gpu must be one of a100-40, .* got 'h2000'"),
        ([*NANO, "--tflops=0"], r"tflops must be above 0, got 0\.0"),
        ([*NANO, "--model.updates_per_epoch=7"], "model.updates_per_epoch: expected a divisor of the 72 rows"),
        ([*NANO, "--model.policy.transition.noise_level=0"], "transition.noise_level: expected above 0"),
        ([*NANO, "--model.policy.height=60"], "height must be a multiple of .* got 60"),
        ([*NANO, "--model.policy.lora.targets=[to_qq]"], "no linear layer of SD3Transformer2DModel is called 'to_qq'"),
        ([*NANO, "--model.policy.backbone.pretrained=who/what"], "who/what.*not among the published ones"),
        (["--config", "configs/llm.yaml"], "a plan needs a DiffusionPolicy.* got PromptPolicy"),
        (["--measured", "nowhere"], "measured must be the folder of a run"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert re.search(f"^error: .*{message}", error, re.DOTALL)
    assert "Traceback" not in error


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys; from realgen.plan import parse_arguments\ntry: parse_arguments(['--help'])\n"
    code += "except SystemExit: sys.exit('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--utilization" in result.stdout
    assert "configs/diffusion_flux.yaml --gpu h200" in result.stdout
