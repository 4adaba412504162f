"""Two processes that train a tiny diffusion policy, as a launcher would start them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from realgen.callbacks import EMA, Export, LastCheckpoint
from realgen.functional.flow_sde import FlowSDE
from realgen.modules import GRPOModule
from realgen.objectives import GRPO
from realgen.parallel import whole
from realgen.policies import DiffusionPolicy, LoRA, RandomWindow
from realgen.policies.backbones import SD3, Backbone
from realgen.policies.whole_weights import gathered_weights
from realgen.rewards import WeightedSum
from tests.helpers.toy_grpo import Color, Prompts, batch_of, trainer

GROUP, MICROBATCH = 4, 3
LR = 1e-2
EPS = 1e-4
"""As large as the gradients are: with Adam's own 1e-8 a rounding of a tiny one would turn its whole step around."""
PORTS = iter(range(10_000 + os.getpid() * 37 % 20_000, 32_000))
"""Not to be given twice by this process, and other ones than those of a test process that was started beside it."""
NORM = 0.002
"""Gradients are larger than that, so they are clipped."""


class CoarseColor(Color):
    """Mean of one channel to four digits.

    Samples of a group differ by little, so their advantages would tell a rounding of 1e-7 a thousand times louder.
    """

    def score(self, samples: Samples) -> Tensor:
        return super().score(samples).round(decimals=4)


class RankPrompts(Prompts):
    """Other prompts on each rank: rank r of n takes numbers 2 (n i + r) and the next in iteration i."""

    def train_dataloader(self) -> Any:
        return _Endless(self.trainer)


class _Endless:
    def __init__(self, lightning: Trainer) -> None:
        self.lightning = lightning

    def __len__(self) -> int:
        return 10**9

    def __iter__(self) -> Any:
        iteration = self.lightning.lightning_module.iteration
        while True:
            yield prompts_of(iteration, self.lightning.global_rank, self.lightning.world_size)
            iteration += 1


def prompts_of(iteration: int, rank: int, ranks: int) -> Any:
    first = 2 * (ranks * iteration + rank)
    return batch_of([first, first + 1])


def make_policy(directory: str, *, backbone: Backbone | None = None, **settings: Any) -> DiffusionPolicy:
    """A tiny policy of the SD3 in the directory, unless another backbone is given."""
    dtype = settings.pop("dtype", "float32")
    defaults = {
        "transition": FlowSDE(0.7),
        "step_window": RandomWindow(2),
        "num_steps": 4,
        "height": 16,
        "width": 16,
        "rollout_batch_size": 5,
        "lora": LoRA(rank=4, alpha=12.0, init="kaiming"),
    }
    backbone = backbone or SD3(directory, guidance_scale=1.5, max_sequence_length=4, dtype=dtype)
    return DiffusionPolicy(backbone, **{**defaults, **settings})


def make_module(policy: Any, **settings: Any) -> GRPOModule:
    defaults = {
        "reward": WeightedSum({"red": CoarseColor(0), "green": CoarseColor(1)}, {"green": 0.5}),
        "objective": GRPO(clip_low=0.2, clip_high=0.2, kl="latent", kl_coef=0.1),
        "optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=LR, eps=EPS),
        "group_size": GROUP,
        "microbatch_size": MICROBATCH,
        "max_grad_norm": NORM,
        "skip_zero_advantages": False,
    }
    return GRPOModule(policy, **{**defaults, **settings})


class Record(Callback):
    """Keeps what was logged, the gradient before clipping and the trained weights of each iteration, all whole."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def on_before_optimizer_step(self, lightning: Trainer, module: GRPOModule, *args: Any) -> None:
        trained = module.policy.trainable_parameters()
        self.gradient = {name: whole(p.grad).clone() for name, p in trained.items()}

    def on_train_batch_end(self, lightning: Trainer, module: GRPOModule, *args: Any) -> None:
        values = {name: float(value) for name, value in lightning.callback_metrics.items()}
        weights = gathered_weights(module.policy, trained_only=True)
        self.steps.append({"values": values, "gradient": self.gradient, "weights": weights})


def fit(
    folder: Path,
    policy: Any,
    *,
    strategy: Any = "auto",
    iterations: int = 3,
    ckpt: Path | None = None,
    exports: bool = True,
    **settings: Any,
) -> tuple[Record, Trainer, GRPOModule]:
    """Train up to an iteration; each is one epoch. Saves the last checkpoint and exports."""
    record = Record()
    callbacks = [EMA(decay=0.5, warmup=1), record, LastCheckpoint(every_n_epochs=iterations)]
    callbacks += [Export()] if exports else []
    to_trainer = {name: settings.pop(name) for name in ("precision", "accelerator") if name in settings}
    lightning = trainer(
        folder,
        devices=int(os.environ.get("WORLD_SIZE", "1")),
        strategy=strategy,
        max_epochs=iterations,
        limit_train_batches=1,
        limit_val_batches=0,
        enable_checkpointing=True,
        callbacks=[*callbacks, *settings.pop("callbacks", [])],
        **to_trainer,
    )
    module = make_module(policy, **settings)
    lightning.fit(module, RankPrompts(), ckpt_path=None if ckpt is None else str(ckpt), weights_only=True)
    return record, lightning, module


def _free_port() -> int:
    """A port below those that the system deals out (from 32768 on), so that no other test takes it meanwhile."""
    for port in PORTS:
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def _child(rank: int, ranks: int, port: int, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks),
        LOCAL_WORLD_SIZE=str(ranks), GROUP_RANK="0", TORCHELASTIC_RUN_ID="test",
    )  # fmt: skip
    work(rank, *args)
    if dist.is_initialized():
        dist.destroy_process_group()


def on_ranks(work: Callable[..., None], *args: Any, ranks: int = 2, grace: float = 100.0) -> list[int | None]:
    """Run ``work(rank, *args)`` in forked processes, as torchrun would start them.

    Args:
        work: Raises to fail.
        *args: Handed to it.
        ranks: How many.
        grace: Seconds that the others have after one has failed; then they are killed.

    Returns:
        Exit codes: 0, 1 after an error, minus the signal's number, None for a rank that had to be killed.
    """
    port = _free_port()
    context = get_context("fork")  # no second import of everything
    processes = [context.Process(target=_child, args=(rank, ranks, port, work, args)) for rank in range(ranks)]
    for process in processes:
        process.start()
    end = float("inf")
    while (waiting := [process.sentinel for process in processes if process.is_alive()]) and time.monotonic() < end:
        wait(waiting, timeout=0.2)
        if end == float("inf") and any(process.exitcode for process in processes):
            end = time.monotonic() + grace
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes
