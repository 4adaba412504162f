"""The benchmarks run, and count right; how long anything takes is not tested."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule

from realgen.modules import GRPOModule

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


def result_of(name: str, folder: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """The JSON that a benchmark leaves when it is run from the repository's root."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.syspath_prepend(ROOT / "experiments" / "benchmarks")
        assert importlib.import_module(name).main([f"--output={folder}", *arguments]) == 0
    return json.loads((folder / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON of a tiny iteration of the default recipe, after the one that warms up."""
    return result_of("grpo_iteration", tmp_path_factory.mktemp("benchmark"), ["--iterations=1", *TINY])


def test_each_transformer_row_is_counted_and_foretold(result: dict[str, Any]) -> None:
    assert result["rows"] == result["predicted_rows"] == [ROWS]
    assert result["transformer_evals"] == [sum(ROWS.values())]


def test_float32_products_are_as_precise_as_the_recipe_says(benchmark_module: Any, tmp_path: Path) -> None:
    recipe = ["--config=configs/diffusion.yaml", "--loggers.wandb=null", f"--run_dir={tmp_path}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        module = benchmark_module("recipe_command")
        arguments = [*recipe, "--float32_matmul_precision=high"]
        try:
            module.BenchmarkCLI(GRPOModule, LightningDataModule, argv=arguments)
            assert torch.get_float32_matmul_precision() == "high"
        finally:
            torch.set_float32_matmul_precision("highest")


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
    return result_of("rewriting_iteration", tmp_path_factory.mktemp("rewriting"), ["--iterations=1", *REWRITING])


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
        "rollout": {"other", "writing", "drawing", "text encoding", "transformer", "VAE decode"},
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


PLAIN = [
    *(argument for argument in TINY if "inner_epochs" not in argument),
    "--model.inner_epochs=1",
    "--model.microbatch_size=8",
]


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON of one tiny round of the default recipe against the published scripts' way."""
    return result_of("plain_baseline", tmp_path_factory.mktemp("baseline"), ["--rounds=1", *PLAIN])


def test_the_plain_script_learns_the_same_in_more_calls(baseline: dict[str, Any]) -> None:
    agreement, ours, plain = baseline["agreement"], baseline["ways"]["ours"], baseline["ways"]["plain script"]
    assert agreement["images"] < 1e-4
    assert agreement["log_probs"] < 1e-5
    assert agreement["gradient_relative"] < 1e-4
    assert agreement["gradient_of_large_calls"] < 1e-4
    assert agreement["largest_gradient"] > 0
    assert agreement["reward_alignment"] < 1e-5
    assert agreement["reward_omniaid"] < 1e-2  # the published one rounds pixels to bytes
    assert plain["rows"] == ours["rows"] == {**ROWS, "update": ROWS["reference"]}
    # One call at each of 4 steps for each of 4 noises; of the reference and the policy one for each of its 2 decisions.
    assert plain["calls"] == {"rollout": 4 * 4, "reference": 4 * 2, "update": 4 * 2}
    # At each step 8 rows in calls of at most 6; then 8 rows x 2 decisions in calls of at most 6.
    assert ours["calls"] == {"rollout": 4 * 2, "reference": 3, "update": 3}
    # Three noises of two in a call of 6 rows, then the fourth.
    large = baseline["ways"]["plain script, large calls"]
    assert large["rows"] == plain["rows"]
    assert large["calls"] == {"rollout": 4 * 2, "reference": 2 * 2, "update": 2 * 2}
    assert plain["flops"]["reference"] == ours["flops"]["reference"]
    assert plain["flops"]["update"] == ours["flops"]["update"]
    assert sum(part["median"] for part in ours["parts"].values()) == pytest.approx(ours["iteration_seconds"]["median"])
    assert plain["flops"]["reward"] > ours["flops"]["reward"]  # experts one after another, each image's text anew


def test_each_saving_is_turned_off_alone_and_on_again(benchmark_module: Any) -> None:
    plain_baseline = benchmark_module("plain_baseline")
    backbone, detector = SimpleNamespace(cache_size=9), SimpleNamespace(batch_size=5)
    alignment = SimpleNamespace(batch_size=7)
    policy = SimpleNamespace(rollout_batch_size=64, samples_per_noise=3, decode_batch_size=64, backbone=backbone)
    module = SimpleNamespace(policy=policy, microbatch_size=8)
    rewards = {"omniaid": SimpleNamespace(detector=detector), "alignment": alignment}
    reward = SimpleNamespace(name="sum", rewards=rewards)
    parts = (backbone, detector, alignment, policy, module)
    before = [dict(vars(part)) for part in parts]
    differences = {}
    for name, settings in plain_baseline.savings(module, reward).items():
        with plain_baseline.changed(settings):
            during = [dict(vars(part)) for part in parts]
        differences[name] = [value for old, new in zip(before, during, strict=True) for key, value in new.items()
                             if value != old[key]]  # fmt: skip
        assert [dict(vars(part)) for part in parts] == before
    assert differences == {
        "rollout_batch_size=3": [3],  # calls as large as the published scripts'
        "microbatch_size=1": [1],
        "samples_per_noise=1": [1],
        "rewards' batch_size=1": [1, 1],
        "decode_batch_size=1": [1],
        "cache_size=1": [1],
    }


def test_what_the_published_scripts_do_not_do_is_refused(repository: Path, benchmark_module: Any) -> None:
    with pytest.raises(ValueError, match="updates_per_epoch and inner_epochs must be 1"):
        benchmark_module("plain_baseline").main(["--rounds=1", *PLAIN, "--model.inner_epochs=2"])


def test_recomputed_activations_are_no_work_of_the_model(benchmark_module: Any) -> None:
    part = {"median": 2.0}
    result = {
        "first_iteration_flops": {"phases": {"update": {"transformer": 10.0, "backward": 26.0}}},
        "seconds": {"update": {"transformer": part, "backward": part}},
        "setting": {"gradient_checkpointing": True},
    }
    speed = benchmark_module("full_size").training_speed
    assert speed(result, 13.0) == {
        "model_flops": (10 + 26 - 10) / 4,
        "hardware_flops": (10 + 26) / 4,
        "model_utilisation": 26 / 4 / 13,
        "hardware_utilisation": 36 / 4 / 13,
    }
    result["setting"]["gradient_checkpointing"] = False
    assert speed(result, None)["model_flops"] == 36 / 4
    assert speed(result, None)["model_utilisation"] is None


def test_calls_with_a_list_of_rows_are_made_again_too(benchmark_module: Any, tmp_path: Path) -> None:
    from realgen.functional.flow_sde import FlowSDE
    from realgen.planning.meter import flop_counter
    from realgen.policies import DiffusionPolicy, LoRA, RandomWindow
    from realgen.policies.backbones import ZImage
    from tests.helpers import tiny_pipelines

    tiny_pipelines.write("z_image", tmp_path)
    size = {"num_steps": 3, "height": tiny_pipelines.SIZE, "width": tiny_pipelines.SIZE}
    how: dict[str, Any] = {"transition": FlowSDE(), "step_window": RandomWindow(2), "lora": LoRA(rank=2), **size}
    policy = DiffusionPolicy(ZImage(str(tmp_path)), **how)
    policy.load()
    measuring = benchmark_module("measuring")
    bare, phase = measuring.BareCalls(policy), "rollout"
    hook = policy.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: bare.record(phase, args, kwargs), with_kwargs=True
    )
    rollout = policy.rollout(["a cat"], 3, generator=torch.Generator().manual_seed(0))
    phase = "update"
    policy.score(rollout, torch.arange(3))
    hook.remove()
    assert bare.rows == {"rollout": 3 * 3, "reference": 0, "update": 3 * 2}
    flops = flop_counter()
    with flops:
        costs = bare.replay(measuring.Clock(flops.get_total_flops, list))
    assert costs["update"] / 6 > 2 * costs["rollout"] / 9 > 0  # a backward pass costs more than a forward pass


@pytest.mark.parametrize(
    ("name", "tflops"),
    [("NVIDIA H200", 989.4), ("NVIDIA A100-SXM4-80GB", 312.0), ("NVIDIA GeForce RTX 4090", 165.2), ("Tesla T4", None)],
)
def test_a_gpu_is_known_by_the_name_its_driver_tells(
    name: str, tflops: float | None, benchmark_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: name)
    expected = None if tflops is None else pytest.approx(tflops * 1e12)
    assert benchmark_module("full_size").peak_flops() == expected


@pytest.mark.slow
def test_a_full_size_run_works_at_tiny_size(repository: Path, benchmark_module: Any, tmp_path: Path) -> None:
    from tests.helpers import tiny_pipelines

    tiny_pipelines.write("flux", tmp_path / "model")
    policy = {"height": 16, "width": 16, "num_steps": 4, "step_window.size": 2, "step_window.start_max": 1}
    policy |= {"backbone.pretrained": tmp_path / "model", "backbone.max_sequence_length": 16}
    arguments = [f"--model.policy.{name}={value}" for name, value in policy.items()]
    arguments += ["--cpu", "--no_compile", "--model.group_size=6", f"--output={tmp_path}"]
    assert benchmark_module("full_size").main(arguments) == 0
    result = json.loads((tmp_path / "full_size.json").read_text())
    assert result["iteration"]["rows"] == [{"rollout": 6 * 4, "reference": 6 * 2, "update": 6 * 2}]
    assert result["iteration"]["setting"]["gradient_checkpointing"]
    assert result["baseline"]["setting"]["samples_per_noise"] == 3
    assert result["training"]["hardware_flops"] > result["training"]["model_flops"] > 0
