"""The first lines of a run: where it is, what it trains on what, by which rewards, and how long it will take."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger

from realgen.callbacks.progress import duration
from realgen.callbacks.run_context import trained_of
from realgen.checks import printable
from realgen.cli.realgen_cli import RealGenCLI
from realgen.planning.forecast import read_measured
from realgen.policies.weight_copy import trained_weights

UNKNOWN_TIME = "told after the first iteration"


def first_lines(cli: RealGenCLI) -> str:
    """Return the lines of a parsed command line whose model is configured, each behind what it is about."""
    return "".join(f"{name:<12}{printable(text)}\n" for name, text in _lines(cli))


def _lines(cli: RealGenCLI) -> Iterator[tuple[str, str]]:
    trainer, model, data = cli.trainer, cli.model, cli.datamodule
    resumed = "" if cli.run.ckpt_path is None else f", goes on from {cli.run.ckpt_path}"
    yield "folder", f"{cli.run.path}{resumed}"
    yield "device", _device(trainer)
    trained = trained_of(model)
    subject = getattr(model, "detector", None) if trained is model else trained
    number = sum(weight.numel() for weight in trained_weights(trained).values())
    kind = "detector" if trained is model else "policy"
    yield kind, f"{type(subject or model).__name__}, {number:,} trainable parameters"
    iterations = _iterations(trainer)
    count = "until it is stopped" if iterations is None else str(iterations)
    prompts, group = getattr(data, "prompts_per_iteration", None), getattr(model, "group_size", None)
    yield "iterations", count if prompts is None else f"{count}, of {prompts} prompts x {group} samples each"
    reward = getattr(model, "reward", None)
    if reward is not None:
        weights = getattr(reward, "weights", {type(reward).__name__: 1.0})
        yield "rewards", ", ".join(f"{name} x {weight:g}" for name, weight in weights.items())
    yield "watch", _watched(cli)
    yield "time", UNKNOWN_TIME if iterations is None else _expected(cli.run.path, iterations)


def _device(trainer: Trainer) -> str:
    """Return what the run computes on, and how many GPUs lie idle meanwhile."""
    used, gpus = trainer.num_devices * trainer.num_nodes, torch.cuda.device_count()
    kind = trainer.strategy.root_device.type
    name = torch.cuda.get_device_name(trainer.strategy.root_device) if kind == "cuda" else kind
    idle = gpus - (trainer.num_devices if kind == "cuda" else 0)
    hint = f"--trainer.accelerator=gpu --trainer.devices={gpus}"
    return f"{used} x {name}" + (f"; {idle} of {gpus} GPUs lie idle, to use them: {hint}" if idle > 0 else "")


def _iterations(trainer: Trainer) -> int | None:
    epochs, batches = trainer.max_epochs, trainer.limit_train_batches
    known = epochs is not None and epochs > 0 and isinstance(batches, int)
    limits = [epochs * int(batches)] if known and epochs is not None else []
    limits += [trainer.max_steps] if trainer.max_steps > 0 else []
    return min(limits, default=None)


def _watched(cli: RealGenCLI) -> str:
    places = [str(cli.run.path / "csv")]
    for logger in cli.trainer.loggers:
        if isinstance(logger, WandbLogger):
            online = "Weights & Biases, project {}".format(logger._wandb_init.get("project"))
            places.append(f"{cli.run.path / 'wandb'}, offline" if logger._offline else online)
    return "; ".join(places)


def _expected(run: Path, iterations: int) -> str:
    """Return how long it takes if it is as fast as the newest earlier run of the recipe."""
    earlier = sorted(folder for folder in run.parent.glob("*") if folder != run and (folder / "csv").is_dir())
    for folder in reversed(earlier):
        with contextlib.suppress(ValueError, OSError):
            seconds: dict[str, Any] = dict(read_measured(folder).seconds)
            each = sum(seconds.values())
            return f"about {duration(each * iterations)}, if as fast as {folder} ({each:.3g} s per iteration)"
    return UNKNOWN_TIME
