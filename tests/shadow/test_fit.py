"""Whole runs of ``realgen.fit`` on the shadow GPU: from the first validation to the export, alone and as one of two."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from tests.helpers.shadow_trainer import shadow_fit
from tests.helpers.toy_bench import write_grey

SHORT = (
    *("--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"),
    *("--model.group_size=2", "--data.prompts_per_iteration=2", "--model.microbatch_size=1"),
    *("--loggers.wandb=null", "--data.validation_batch_size=2"),
)
FEW_STEPS = ("num_steps=3", "eval_num_steps=2", "step_window.size=1", "step_window.start_max=1")
"""Of the image policy, which decides one of its steps."""
SEEN_ALONE = (
    *("kid_imagenet", "imagenet_probe", "diversity_imagenet", "color_distance", "contrast_distance"),
    *("spectrum_distance", "grid_energy"),
)
"""Metrics that only the run alone computes: between ranks they pass what the others pass."""


def check_metrics(run: Path, *names: str) -> None:
    """What a run has logged is there, and finite."""
    with next(run.rglob("metrics.csv")).open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in names:
        values = [float(row[name]) for row in rows if row.get(name)]
        assert values, name
        assert all(map(math.isfinite, values)), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "more"),
    [
        (1, ("--model.frozen_on_demand=true", "--baseline=false")),
        (2, tuple(f"--model.metrics.{name}=null" for name in SEEN_ALONE)),
    ],
    ids=["alone, on demand", "one of two"],
)
def test_the_default_recipe(ranks: int, more: tuple[str, ...], repository: Path, tmp_path: Path) -> None:
    run, few = tmp_path / "run", (f"--model.policy.{setting}" for setting in FEW_STEPS)
    traffic = shadow_fit("--config=configs/diffusion.yaml", *SHORT, *few, *more, f"--run_dir={run}", ranks=ranks)
    assert (run / "lora" / "pytorch_lora_weights.safetensors").is_file()
    assert (run / "checkpoints" / "last.ckpt").is_file()
    check_metrics(run, "val/held_out_realism", "val/kid", "objective/policy_loss", "reward", "grad_norm")
    brought = [event for event in traffic.events if event.where.startswith("realgen/on_demand.py")]
    assert bool(brought) == (ranks == 1)
    assert not any(event.waits for event in brought)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "more", "exported"),
    [
        ("llm", ("policy.max_tokens=8", "policy.image_policy.eval_num_steps=2"), "lora/adapter_model.safetensors"),
        (
            "joint",
            (
                "policy.rewriter.max_tokens=8",
                "policy.images_per_rewrite=2",
                *(f"policy.image_policy.{s}" for s in FEW_STEPS),
            ),
            "lora/images/pytorch_lora_weights.safetensors",
        ),
        (
            "diffusion",
            ("policy.lora=null", "policy.keep_reference=true", *(f"policy.{step}" for step in FEW_STEPS)),
            "lora/diffusion_pytorch_model.safetensors",
        ),
    ],
    ids=["llm", "joint", "whole weights"],
)
def test_the_other_recipes(recipe: str, more: tuple[str, ...], exported: str, repository: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shadow_fit(
        f"--config=configs/{recipe}.yaml", *SHORT, "--model.metrics=null", "--baseline=false",
        "--model.validation_samples_per_prompt=1",
        *(f"--model.{setting}" for setting in more), f"--run_dir={run}",
    )  # fmt: skip
    assert (run / exported).is_file()
    check_metrics(run, "val/reward", "objective/policy_loss", "reward", "grad_norm")


KINDS = ("real", "generated")


@pytest.mark.slow
def test_the_detector_recipe_as_one_of_two(repository: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    # The shadow device knows no inference mode, and no worker of a loader does.
    few = ("--trainer.inference_mode=false", "--data.num_workers=0", "--trainer.max_epochs=1")
    folders = {f"{split}{kind}": tmp_path / f"{split}{kind}" for split in ("", "validation_") for kind in KINDS}
    for number, folder in enumerate(folders.values()):
        for image in range(4 + 2 * (number == 3)):  # no two are equal, and this rank validates on both kinds
            write_grey(folder / f"{image}.png", 8 * (4 * image + number), size=(64, 64))
    settings = [f"--data.{name}={value}" for name, value in {**folders, "image_size": 64, "batch_size": 4}.items()]
    recipe = ("--config=configs/detector.yaml", "--data=configs/data/image_folders.yaml")
    shadow_fit(*recipe, *few, *settings, "--loggers.wandb=null", f"--run_dir={run}", ranks=2)
    assert (run / "detector" / "model.safetensors").is_file()
    check_metrics(run, "loss", "val/auroc")
