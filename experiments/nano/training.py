"""The training loop that every nano model shares: progress, learning rate, clipping, and a checkpoint to go on from."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

SAVE_SECONDS = 300.0
"""Time between two checkpoints."""


def cosine_lr(step: int, steps: int, *, peak: float, warmup: int) -> float:
    """Linear warm-up to ``peak``, then a cosine down to a hundredth of it."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def trapezoid_lr(step: int, steps: int, *, peak: float, warmup: int, decay: float) -> float:
    """Linear warm-up to ``peak``, a plateau, and a line down to a hundredth of it over the last ``decay`` of the steps.

    Unlike under a cosine, a run can be made longer while it is on its plateau (Haegele et al., arXiv:2405.18392).
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    left = (steps - step) / max(steps * decay, 1)
    return peak * max(min(left, 1.0), 0.01)


class Training:
    """Steps over a model and its optimizers that survive being killed.

    A checkpoint is written every five minutes (to a temporary file, then renamed) and removed after the last step; a
    run that finds one goes on from it. Randomness of a step comes from ``generator(step)`` alone, so a resumed run sees
    the same batches.

    Args:
        checkpoint: Where to keep the state of an unfinished run.
        model: Trained in place.
        optimizer: Of the model's parameters; several where each has some of them.
        seed: Of the batches.
        average: Decay of a running average of the weights, kept in ``averaged``; ``None`` keeps none.
        save_seconds: Time between two checkpoints.
    """

    def __init__(
        self,
        checkpoint: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        *,
        seed: int,
        average: float | None = None,
        save_seconds: float = SAVE_SECONDS,
    ) -> None:
        self.checkpoint, self.model, self.seed = checkpoint, model, seed
        self.optimizers = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)
        self.average, self.save_seconds = average, save_seconds
        self.averaged = {k: v.detach().clone() for k, v in model.state_dict().items()} if average is not None else {}
        self.first_step = 0
        self._loss = float("nan")
        self._bar: tqdm | None = None
        if checkpoint.is_file():
            state = torch.load(checkpoint, weights_only=True)
            model.load_state_dict(state["model"])
            for one, own_state in zip(self.optimizers, state["optimizers"], strict=True):
                one.load_state_dict(own_state)
            self.averaged, self.first_step = state["averaged"], state["step"]

    def generator(self, step: int) -> torch.Generator:
        """The only source of randomness of a step."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + step)

    def steps(self, steps: int, name: str) -> Iterator[int]:
        """Yield the steps still to do, under a progress bar; the caller calls ``update`` once in each."""
        self.model.train()
        saved = time.monotonic()
        first, left = self.first_step, range(self.first_step, steps)
        with tqdm(left, initial=first, total=steps, desc=name, mininterval=2) as self._bar:
            for step in self._bar:
                yield step
                if time.monotonic() - saved > self.save_seconds:
                    self._save(step + 1)
                    saved = time.monotonic()
        self.checkpoint.unlink(missing_ok=True)

    def update(self, loss: Tensor, *, lr: float, clip: float = 1.0) -> None:
        """One step of every optimizer."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * group.get("lr_scale", 1.0)
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        for optimizer in self.optimizers:
            optimizer.step()
        if self.average is not None:
            for name, value in self.model.state_dict().items():
                if value.dtype.is_floating_point:
                    self.averaged[name].lerp_(value, 1 - self.average)
        value = float(loss.detach())
        self._loss = value if math.isnan(self._loss) else 0.98 * self._loss + 0.02 * value
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{self._loss:.4f}", refresh=False)

    def _save(self, step: int) -> None:
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.checkpoint.with_suffix(".tmp")
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        state = {"model": self.model.state_dict(), "optimizers": optimizers}
        torch.save({**state, "averaged": self.averaged, "step": step}, temporary)
        temporary.replace(self.checkpoint)
