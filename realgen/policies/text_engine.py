"""Engines that write a language model's completions: transformers, or a serving engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from realgen.parallel import autocast_without_cache
from realgen.policies.chat import Chat
from realgen.policies.lora import LoRA
from realgen.policies.token_sampler import Completions, TokenSampler, concatenate_completions


@dataclass(frozen=True)
class WritingTask:
    """Chats to continue, the model, and the sampling settings."""

    model: Any
    """The causal language model of transformers that is trained, in eval mode."""
    pretrained: str
    """Directory or hub id that it was read from."""
    chat: Chat
    """Longest chat, end tokens and padding token."""
    chats: Sequence[Sequence[int]]
    """b chats as tokens; an empty row is not continued."""
    uniforms: Float[Tensor, "rows limit"]
    """In [0, 1), float64: one random number for each token that a row may have."""
    temperature: float
    """Divides the logits; 0 takes the most likely token."""
    top_p: float
    """Mass of the nucleus, above 0 and at most 1."""
    batch_size: int
    """Most rows in one batch."""
    same_calls_everywhere: bool = False
    """Whether all ranks must call the model equally often, as sharded weights require."""
    progress: Callable[[int, int], None] | None = None
    """Called with (done, total), in the engine's unit."""


class TextEngine(ABC):
    """Writes completions for a ``PromptPolicy``.

    With every engine the policy scores the completions once more with the trained model, so the ratio of the first
    update is 1; ``sampler_gap_max`` is the engine's distance from those scores.
    """

    @abstractmethod
    def check(self, *, lora: LoRA | None, temperatures: Sequence[float], top_p: float) -> None:
        """Raise ValueError for a policy's settings that the engine does not support; loads nothing.

        ``lora`` is None where the whole model is trained; ``temperatures`` are all that will be used.
        """

    @abstractmethod
    def write(self, task: WritingTask) -> Completions:
        """Continue each chat until it ends or ``uniforms`` are used up; return completions on the model's device."""


class TransformersEngine(TextEngine):
    """The trained model itself with a key-value cache, the default of a policy.

    A row's tokens depend on its own random numbers alone; every model, sharding and nucleus is supported.
    """

    def check(self, *, lora: LoRA | None, temperatures: Sequence[float], top_p: float) -> None:
        """Accept all settings of a policy."""

    def write(self, task: WritingTask) -> Completions:
        """Continue ``task.batch_size`` rows at a time; progress counts tokens of the longest rows."""
        model, device = task.model, next(task.model.parameters()).device
        ends, pad_id = task.chat.end_ids, task.chat.pad_id
        sampler = TokenSampler(task.temperature, task.top_p, pad_id, ends, task.same_calls_everywhere)
        starts, limit = range(0, len(task.chats), task.batch_size), task.uniforms.shape[1]
        parts = []
        for number, start in enumerate(starts):
            rows = slice(start, start + task.batch_size)
            report = _shifted(task.progress, number * limit, len(starts) * limit)
            with autocast_without_cache(device.type):
                parts.append(sampler(model, task.chats[rows], task.uniforms[rows].to(device), report))
        return concatenate_completions(parts, pad_id)


def _shifted(progress: Callable[[int, int], None] | None, done: int, total: int) -> Callable[[int], None] | None:
    return None if progress is None else lambda step: progress(done + step, total)
