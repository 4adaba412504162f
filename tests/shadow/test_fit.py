"""Whole runs of ``realgen.fit`` on the shadow GPU: from the first validation to the export, alone and as one of two."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest

from experiments.nano.detector_folders import NanoFolders
from tests.helpers.shadow_trainer import shadow_fit

SHORT = (
    *("--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"),
    *("--model.group_size=4", "--data.prompts_per_iteration=2", "--model.microbatch_size=3"),
    *("--loggers.wandb=null", "--data.validation_batch_size=2"),
)


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
    ("ranks", "more"), [(1, ("--model.frozen_on_demand=true",)), (2, ())], ids=["alone, on demand", "one of two"]
)
def test_the_default_recipe(ranks: int, more: tuple[str, ...], repository: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    traffic = shadow_fit("--config=configs/diffusion.yaml", *SHORT, *more, f"--run_dir={run}", ranks=ranks)
    assert (run / "lora" / "pytorch_lora_weights.safetensors").is_file()
    assert (run / "checkpoints" / "last.ckpt").is_file()
    check_metrics(run, "val/held_out_realism", "val/kid", "objective/policy_loss", "reward", "grad_norm")
    brought = [event for event in traffic.events if event.where.startswith("realgen/on_demand.py")]
    assert bool(brought) == (ranks == 1)
    assert not any(event.waits for event in brought)


FEW_STEPS = ("num_steps=4", "step_window.start_max=1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "more", "exported"),
    [
        ("llm", ("policy.max_tokens=8", "policy.image_policy.eval_num_steps=3"), "lora/adapter_model.safetensors"),
        (
            "joint",
            ("policy.rewriter.max_tokens=8", *(f"policy.image_policy.{step}" for step in FEW_STEPS)),
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
        f"--config=configs/{recipe}.yaml", *SHORT, "--model.metrics=null",
        *(f"--model.{setting}" for setting in more), f"--run_dir={run}",
    )  # fmt: skip
    assert (run / exported).is_file()
    check_metrics(run, "val/reward", "objective/policy_loss", "reward", "grad_norm")


@pytest.mark.slow
def test_the_detector_recipe_as_one_of_two(repository: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    # The shadow device knows no inference mode.
    few = (
        "--trainer.inference_mode=false",
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=2",
        "--trainer.limit_val_batches=1",
    )
    data: dict[str, Any] = {"crops": 2, "samples": 16, "held_out_crops": 1, "held_out_samples": 16}
    data["directory"] = str(tmp_path)
    made = NanoFolders(**data)
    made.prepare_data()
    folders = {
        f"{prefix}{kind}": made.folder / split / kind
        for prefix, split in (("", "train"), ("validation_", "validation"))
        for kind in ("real", "generated")
    }
    settings = [f"--data.{name}={value}" for name, value in {**folders, "image_size": 64, "batch_size": 8}.items()]
    recipe = ("--config=configs/detector.yaml", "--data=configs/data/image_folders.yaml")
    shadow_fit(*recipe, *few, *settings, "--loggers.wandb=null", f"--run_dir={run}", ranks=2)
    assert (run / "detector" / "model.safetensors").is_file()
    check_metrics(run, "loss", "val/auroc")
