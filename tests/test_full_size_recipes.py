"""Recipes whose weights are not here: their numbers, and whole runs with a tiny random model for ``pretrained``."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from realgen.fit import main
from tests.helpers import tiny_pipelines

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"


class Recipe(NamedTuple):
    """A recipe with its overlays, and numbers of the published config that it follows."""

    tiny: str
    """Backbone's module, whose tiny model stands in."""
    files: tuple[str, ...]
    steps: int
    window: tuple[int, int]
    """Size, and last start."""
    group_size: int
    images: int
    """Of one iteration on all GPUs."""
    guidance: float
    noise_level: float
    lr: float
    clip: float
    kl: tuple[str, float]
    ratio_norm: bool
    rank: int
    size: int


RECIPES = {
    "flux": Recipe(
        "flux", ("diffusion_flux",), 28, (3, 11), 24, 576, 3.5, 0.9, 1e-4, 4e-6, ("velocity", 4e-4), True, 64, 1024
    ),
    "flux_v1": Recipe(
        "flux",
        ("diffusion_flux", "variants/flux_realgen_v1"),
        *(28, (7, 14), 21, 504, 3.5, 0.9, 1e-4, 2e-6, ("velocity", 4e-4), True, 64, 1024),
    ),
    "flux_one_gpu": Recipe(
        "flux",
        ("diffusion_flux", "variants/one_gpu"),
        *(28, (3, 11), 24, 72, 3.5, 0.9, 1e-4, 4e-6, ("velocity", 4e-4), True, 64, 1024),
    ),
    "sd35": Recipe(
        "sd3", ("diffusion_sd35",), 28, (7, 14), 21, 504, 4.5, 0.9, 1e-4, 1e-4, ("latent", 3.6e-4), False, 32, 1024
    ),
    "z_image": Recipe(
        "z_image",
        ("diffusion_z_image",),
        40,
        (3, 17),
        24,
        576,
        4.0,
        0.9,
        4e-4,
        1e-4,
        ("velocity", 1e-5),
        True,
        64,
        1024,
    ),
    "z_image_turbo": Recipe(
        "z_image",
        ("diffusion_z_image", "variants/z_image_turbo"),
        *(9, (3, 1), 24, 576, 0.0, 0.9, 4e-4, 1e-4, ("velocity", 1e-5), True, 64, 1024),
    ),
    "qwen_image": Recipe(
        "qwen_image",
        ("diffusion_qwen_image",),
        10,
        (2, 3),
        16,
        512,
        4.0,
        1.2,
        3e-4,
        1e-4,
        ("velocity", 0.0),
        False,
        64,
        512,
    ),
}
"""RealGen's table of named configs, and Flow-GRPO's Qwen-Image."""
FORWARD = RECIPES["sd35"]._replace(files=("diffusion_sd35", "variants/forward_process_sd35"))
"""DiffusionNFT's; its decisions are not steps."""
LEARNING = RECIPES["flux"]._replace(files=("diffusion_flux", "variants/realgen_v2_detectors"))
"""RealGen v2's detectors, which learn; its small run would need their weights."""
ENSEMBLES = {
    "probe_ensemble": {"perception_encoder": 0.3333, "metaclip2": 0.3333, "siglip2": 0.3333},
    "nano_ensemble": {"omniaid": 0.5, "forensic_chat": 0.5},
}
"""Overlays with several detectors, and what each rewards beside alignment."""


def config_arguments(recipe: Recipe) -> list[str]:
    return [part for name in recipe.files for part in ("--config", str(CONFIGS / f"{name}.yaml"))]


def small_arguments(recipe: Recipe, directory: str) -> list[str]:
    """One CPU, a tiny model and images to match, and a reward and metrics that need no weights."""
    policy = {"backbone.pretrained": directory, "backbone.dtype": "float32", "height": 16, "width": 16}
    policy["compile_blocks"] = "false"  # takes minutes
    policy |= {"backbone.max_sequence_length": 512 if recipe.tiny == "qwen_image" else 64, "eval_num_steps": 2}
    trainer = {"accelerator": "cpu", "devices": 1, "strategy": "auto", "max_epochs": 1, "limit_train_batches": 2}
    model = {"group_size": 6, "reward": CONFIGS / "rewards" / "jpeg_size.yaml"}
    return [
        *(f"--model.policy.{key}={value}" for key, value in policy.items()),
        *(f"--trainer.{key}={value}" for key, value in {**trainer, "limit_val_batches": 1}.items()),
        *(f"--model.{key}={value}" for key, value in model.items()),
        "--data.prompts_per_iteration=1",
        "--data.validation_batch_size=1",
        "--model.metrics.held_out_realism=null",
        "--model.metrics.diversity=null",
        "--callbacks.report=null",
        "--loggers.wandb=null",
        "--baseline=false",
    ]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    @cache
    def write(module: str) -> str:
        directory = tmp_path_factory.mktemp(module)
        tiny_pipelines.write(module, directory)
        return str(directory)

    return write


def test_every_full_size_recipe_and_variant_is_listed() -> None:
    listed = {name for recipe in (*RECIPES.values(), FORWARD, LEARNING) for name in recipe.files}
    listed |= {f"variants/{name}" for name in ENSEMBLES}
    # Those that choose an approximate option over any recipe are in tests/policies/solvers/test_overlays.py.
    overlays = [p for p in CONFIGS.glob("variants/*.yaml") if "\n# Approximate" not in p.read_text()]
    recipes = [path for path in CONFIGS.glob("*.yaml") if "trainer/full_size.yaml" in path.read_text()]
    files = [*recipes, *overlays]
    assert listed == {str(path.relative_to(CONFIGS).with_suffix("")) for path in files}


def shown(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stop:
        main([*config_arguments(recipe), "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("name", RECIPES)
def test_numbers_are_the_published_ones(name: str, repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, config = RECIPES[name], shown(RECIPES[name], capsys)
    model = config["model"]["init_args"]
    policy, objective = model["policy"]["init_args"], model["objective"]
    backbone, window = policy["backbone"]["init_args"], policy["step_window"]["init_args"]
    prompts = config["data"]["init_args"]["prompts_per_iteration"] * config["trainer"]["devices"]
    assert prompts * model["group_size"] == recipe.images
    assert model["group_size"] == recipe.group_size
    assert model["group_size"] % policy["samples_per_noise"] == 0
    rows = config["data"]["init_args"]["prompts_per_iteration"] * model["group_size"]
    assert rows % model["updates_per_epoch"] == 0
    assert (policy["num_steps"], policy["height"], policy["width"]) == (recipe.steps, recipe.size, recipe.size)
    assert (window["size"], window["start_max"]) == recipe.window
    assert backbone.get("true_cfg_scale" if recipe.tiny == "qwen_image" else "guidance_scale") == recipe.guidance
    assert backbone["dtype"] == "bfloat16"
    assert config["float32_matmul_precision"] == "high"  # allow_tf32
    assert policy["transition"]["init_args"]["noise_level"] == recipe.noise_level
    assert (policy["lora"]["rank"], policy["lora"]["alpha"]) == (recipe.rank, 2 * recipe.rank)
    assert policy["lora"]["init"] == "gaussian"
    assert policy["lora"]["targets"] is None  # the backbone's, which are the published ones
    optimizer = model["optimizer"]["init_args"]
    assert (optimizer["lr"], optimizer["weight_decay"], optimizer["eps"]) == (recipe.lr, 1e-4, 1e-8)
    assert (objective["init_args"]["clip_low"], objective["init_args"]["clip_high"]) == (recipe.clip, recipe.clip)
    assert (objective["init_args"]["kl"], objective["init_args"]["kl_coef"]) == recipe.kl
    assert objective["class_path"].endswith("GRPOGuard") == recipe.ratio_norm
    # Published are 2 updates; the 63 rows of a rank in groups of 21 are divided by 3.
    assert model["updates_per_epoch"] == (3 if recipe.group_size == 21 else 2)
    assert (model["max_grad_norm"], config["seed_everything"]) == (1.0, 42)


def test_the_forward_process_has_the_numbers_that_its_papers_agree_on(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = shown(FORWARD, capsys)
    model = config["model"]["init_args"]
    policy, objective = model["policy"]["init_args"], model["objective"]
    assert policy["backbone"]["init_args"]["pretrained"] == "stabilityai/stable-diffusion-3.5-medium"
    assert policy["backbone"]["init_args"]["guidance_scale"] == 1.0  # no guidance in rollouts
    assert (policy["num_steps"], policy["eval_num_steps"], policy["height"], policy["width"]) == (10, 40, 512, 512)
    assert (policy["draws"]["count"], policy["draws"]["error"]) == (9, "adaptive")  # int(0.99 * 10)
    assert (policy["lora"]["rank"], policy["lora"]["alpha"]) == (32, 64)
    assert policy["draws"]["lagged"] == {"old": {"flat": 0, "rate": 0.001, "most": 0.5}}  # decay type 1
    assert (objective["class_path"].rpartition(".")[2], objective["init_args"]["beta"]) == ("DiffusionNFT", 1.0)
    assert objective["init_args"]["advantage_std"] == "global"
    assert model["optimizer"]["init_args"]["lr"] == 3e-4
    assert model["optimizer"]["init_args"]["weight_decay"] == 1e-4
    prompts = config["data"]["init_args"]["prompts_per_iteration"] * config["trainer"]["devices"]
    assert (prompts, model["group_size"], model["updates_per_epoch"]) == (48, 24, 1)


def test_detectors_learn_with_the_published_numbers(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = shown(LEARNING, capsys)
    assert config["data"]["init_args"]["train_images"]
    for name in ("omniaid", "omniaid_dino"):
        given = config["callbacks"][f"learn_{name}"]["init_args"]
        assert given["component"] == name
        assert (given["optimizer"]["init_args"]["lr"], given["optimizer"]["init_args"]["weight_decay"]) == (4e-5, 0.01)
        assert (given["soft_label"], given["orthogonality_weight"], given["trainable"]) == (0.05, 0.001, "experts")
        assert (given["warmup_updates"], given["threshold"]) == (1, 0.6)
        assert (given["target_accuracy"], given["max_passes"], given["ema_decay"]) == (0.9, 20, 0.99)
        pairs = given["pairs"]
        assert (pairs["replay"], pairs["per_step"], pairs["photographs"]) == (1000, 16, None)
        assert pairs["augment"]["blur"] == pairs["augment"]["flip"] == 0.5


@pytest.mark.parametrize("name", ENSEMBLES)
def test_an_ensemble_rewards_no_judge_that_it_holds_out(
    name: str, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = (CONFIGS / f"{each}.yaml" for each in ("diffusion", f"variants/{name}"))  # the smallest recipe, for both
    with pytest.raises(SystemExit):
        main([*(f"--config={file}" for file in files), "--print_config"])
    model = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    rewards, metrics = (
        {k: p.get("init_args", {}) for k, p in parts.items()}
        for parts in (model["reward"]["init_args"]["rewards"], model["metrics"])
    )
    rewarded = {key: str(part["detector"]["init_args"]) for key, part in rewards.items() if "detector" in part}
    weights = model["reward"]["init_args"]["weights"]
    assert {key: weights[key] for key in rewarded} == ENSEMBLES[name]
    judges = {key: part["detector"]["init_args"] for key, part in metrics.items() if "detector" in part}
    assert "imagenet_probe" in metrics
    assert judges.keys() >= {"held_out_realism", *(["held_out_dinov3"] if name == "probe_ensemble" else [])}
    named = [value for judge in judges.values() for key, value in judge.items() if key in ("backbone", "checkpoint")]
    assert named
    assert not [value for value in named if any(value in part for part in rewarded.values())]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*RECIPES, "forward"])
def test_two_iterations_with_a_tiny_model(
    name: str, repository: Path, tiny: Callable[[str], str], tmp_path: Path
) -> None:
    recipe, run = {**RECIPES, "forward": FORWARD}[name], tmp_path / "run"
    arguments = [*config_arguments(recipe), *small_arguments(recipe, tiny(recipe.tiny)), f"--run_dir={run}"]
    assert main(arguments) == 0
    assert (run / "checkpoints" / "last.ckpt").exists()
    assert (run / "lora" / "pytorch_lora_weights.safetensors").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--model.policy.height=18", r"height must be a multiple of 4 for .* got 18"),
        ("--model.policy.lora.targets=[to_qq]", "targets: no linear layer of FluxTransformer2DModel is called 'to_qq'"),
        (
            "--model.policy.step_window.start_max=26",
            "RandomWindow of 3 steps may start at steps 0 to 26; with num_steps=28",
        ),
        ("--model.policy.step_window.start_max=-1", "0 <= start_min <= start_max"),
        (
            "--model.policy.backbone.guidance_scale=null",
            "guidance_scale must be a number, an input of the model",
        ),
        ("--model.policy.backbone.pretrained=someone/model", "Fetch it with `hf download someone/model`"),
        ("--model.policy.samples_per_noise=4", "samples_per_noise=4 must divide group_size, got 6"),
    ],
    ids=lambda value: value.partition("=")[0].removeprefix("--model.policy.") if value.startswith("--") else "",
)
def test_bad_input_is_known_before_the_run_begins(
    change: str,
    message: str,
    repository: Path,
    tiny: Callable[[str], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe, run = RECIPES["flux"], tmp_path / "run"
    arguments = [*config_arguments(recipe), *small_arguments(recipe, tiny("flux")), f"--run_dir={run}", change]
    capsys.readouterr()  # the bars of writing the tiny model
    assert main(arguments) == 1
    said = capsys.readouterr().err.splitlines()
    (error,) = (line for line in said if not line.startswith("at work for "))  # told every minute on a slow machine
    assert re.search(message, error)
    assert not run.exists()


def test_a_misspelt_key_of_a_detector_is_told_before_the_missing_weights_of_another(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "model.reward.rewards.omniaid.detector.config.rnak"
    assert (
        main(["--config=configs/diffusion_flux.yaml", "--model.reward=configs/rewards/realgen_v1.yaml", f"--{key}=2"])
        == 1
    )
    assert f"{key}: OmniAIDConfig has no such key (command line). Did you mean rank?" in capsys.readouterr().err
