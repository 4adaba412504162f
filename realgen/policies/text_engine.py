"""What writes a language model's completions: transformers itself, or an engine made for serving."""

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
    """Chats to go on with, by which model and how."""

    model: Any
    """The causal language model of transformers that is trained, in eval mode."""
    pretrained: str
    """Directory or hub id that it was read from."""
    chat: Chat
    """Says how long a chat may be, which tokens end a completion, and which one pads."""
    asked: Sequence[Sequence[int]]
    """b chats as tokens; an empty row is not continued."""
    uniforms: Float[Tensor, "rows limit"]
    """In [0, 1), float64: all chance of each row, one number for each token that it may write."""
    temperature: float
    """Divides the logits; 0 takes the likeliest token."""
    top_p: float
    """Mass of the nucleus, above 0 and at most 1."""
    batch_size: int
    """Most rows that write at a time."""
    same_calls_everywhere: bool = False
    """Whether all ranks must call the model equally often, as sharded weights demand."""
    progress: Callable[[int, int], None] | None = None
    """Called with (done, total), in whatever the engine counts."""


class TextEngine(ABC):
    """Writes completions for a ``PromptPolicy``.

    Whatever writes, the policy scores what was written once more, with the model that is trained: the ratio of the
    first update is 1 with every engine, and ``sampler_gap_max`` tells how far the engine was from those scores.
    """

    @abstractmethod
    def check(self, *, lora: LoRA | None, temperatures: Sequence[float], top_p: float) -> None:
        """Refuse settings of a policy that the engine cannot write for, with a ValueError; costs nothing.

        Args:
            lora: What the policy trains; ``None`` for the whole model.
            temperatures: That it will ask for.
            top_p: That it will ask for.
        """

    @abstractmethod
    def write(self, task: WritingTask) -> Completions:
        """Continue each chat until it ends or ``uniforms`` are used up.

        Args:
            task: What to write.

        Returns:
            Completions of all rows, on the device of ``task.model``.
        """


class TransformersEngine(TextEngine):
    """The trained model itself, with a key-value cache: what the policy uses without any other engine.

    A row's tokens depend on its own chance alone, and every kind of model, shard and nucleus will do.
    """

    def check(self, *, lora: LoRA | None, temperatures: Sequence[float], top_p: float) -> None:
        """Accept all settings of a policy."""

    def write(self, task: WritingTask) -> Completions:
        """Continue ``task.batch_size`` rows at a time; progress counts tokens of the longest rows.

        Args:
            task: What to write.

        Returns:
            Completions of all rows.
        """
        model, device = task.model, next(task.model.parameters()).device
        ends, pad_id = task.chat.end_ids, task.chat.pad_id
        sampler = TokenSampler(task.temperature, task.top_p, pad_id, ends, task.same_calls_everywhere)
        starts, limit = range(0, len(task.asked), task.batch_size), task.uniforms.shape[1]
        parts = []
        for number, start in enumerate(starts):
            rows = slice(start, start + task.batch_size)
            report = _shifted(task.progress, number * limit, len(starts) * limit)
            with autocast_without_cache(device.type):
                parts.append(sampler(model, task.asked[rows], task.uniforms[rows].to(device), report))
        return concatenate_completions(parts, pad_id)


def _shifted(progress: Callable[[int, int], None] | None, done: int, total: int) -> Callable[[int], None] | None:
    return None if progress is None else lambda step: progress(done + step, total)
