"""Engines that write a language model's completions: transformers, or a serving engine."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from realgen.functional.token_sampling import draw_tokens, entropy, nucleus, pack_bits, truncated_log_softmax
from realgen.parallel import any_rank, autocast_without_cache
from realgen.policies.chat import Chat
from realgen.policies.lora import LoRA


@dataclass(frozen=True)
class Completions:
    """The completions of some rows, padded to the longest."""

    tokens: Int[Tensor, "rows decisions"]
    """[b, S] drawn tokens, then the padding token."""
    mask: Bool[Tensor, "rows decisions"]
    """[b, S] True for drawn tokens, the one that ends a completion included."""
    ended: Bool[Tensor, " rows"]
    """[b] whether an end token came before the limit."""
    log_probs: Float[Tensor, "rows decisions"]
    """[b, S] of the drawn tokens, by the cached forward passes that drew them; 0 in the padding."""
    entropy: Float[Tensor, "rows decisions"]
    """[b, S] of the distributions that they were drawn from; 0 in the padding."""
    kept: UInt8[Tensor, "rows decisions bytes"] | None
    """[b, S, ceil(V / 8)] the tokens in the nucleus, one bit each; None without a nucleus."""


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


@dataclass(frozen=True)
class TokenSampler:
    """Settings of sampling, and the loop.

    The fields are those of ``WritingTask``; ``pad_id`` pads rows, and ``end_ids`` end one. With
    ``same_calls_everywhere``, all ranks continue until all rows of all ranks have ended, as sharded weights require.
    """

    temperature: float
    top_p: float
    pad_id: int
    end_ids: Sequence[int]
    same_calls_everywhere: bool = False

    @torch.no_grad()
    def __call__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        uniforms: Float[Tensor, "rows limit"],
        progress: Callable[[int], None] | None = None,
    ) -> Completions:
        """Continue each prompt until it ends or the limit is reached.

        An empty row is not continued; ``uniforms``, one per token, are in [0, 1), float64, and limit the tokens.
        """
        longest = max(1, *map(len, prompts))
        rows = [[self.pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        ids = torch.tensor(rows, device=model.device)
        # An empty row attends to one padding token, against NaN.
        seen = [[0] * (longest - max(1, len(prompt))) + [1] * max(1, len(prompt)) for prompt in prompts]
        attention = torch.tensor(seen, device=model.device)
        ends, cache = torch.tensor(self.end_ids, device=model.device), None
        positions = (attention.cumsum(-1) - 1).clamp(min=0)
        alive = torch.tensor([bool(prompt) for prompt in prompts], device=model.device)
        ended = torch.zeros_like(alive)
        columns: list[tuple[Tensor, ...]] = []
        for step in range(uniforms.shape[1]):
            output = model(
                input_ids=ids,
                attention_mask=attention,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            token, *facts = self._draw(output.logits[:, -1], uniforms[:, step])
            token = torch.where(alive, token, self.pad_id)
            columns.append((token, alive, *(fact * alive.view(-1, *[1] * (fact.ndim - 1)) for fact in facts)))
            ended = ended | (alive & torch.isin(token, ends))
            alive = alive & ~ended
            if progress is not None:
                progress(step + 1)
            waiting = bool(alive.any())
            if not (any_rank(waiting, alive.device) if self.same_calls_everywhere else waiting):
                break
            ids, positions = token[:, None], positions[:, -1:] + 1
            attention = torch.cat([attention, torch.ones_like(attention[:, :1])], dim=1)
        tokens, mask, log_probs, entropies, *kept = (
            torch.stack(column, dim=1) for column in zip(*columns, strict=True)
        )
        return Completions(tokens, mask, ended, log_probs, entropies, kept[0] if kept else None)

    def _draw(self, logits: Tensor, uniforms: Tensor) -> tuple[Tensor, ...]:
        """Return token, log-probability, entropy, and with a nucleus the packed mask of each row."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.temperature == 0:
            nothing = torch.zeros_like(logits[:, 0])
            return logits.argmax(-1), nothing, nothing
        kept = nucleus(logits / self.temperature, self.top_p) if self.top_p < 1 else None
        log_probs = truncated_log_softmax(logits, self.temperature, kept)
        token = draw_tokens(log_probs, uniforms)
        drawn = log_probs.gather(-1, token[:, None]).squeeze(-1)
        return (token, drawn, entropy(log_probs), *(() if kept is None else (pack_bits(kept),)))


def concatenate_completions(parts: Sequence[Completions], pad_id: int) -> Completions:
    """Join completions of consecutive rows, padded to the longest of them."""
    longest = max(part.tokens.shape[1] for part in parts)

    def joined(name: str, fill: int = 0) -> Tensor:
        tensors = [getattr(part, name) for part in parts]
        widths = [(*[0, 0] * (tensor.ndim - 2), 0, longest - tensor.shape[1]) for tensor in tensors]
        return torch.cat([torch.nn.functional.pad(t, w, value=fill) for t, w in zip(tensors, widths, strict=True)])

    return Completions(
        tokens=joined("tokens", pad_id),
        mask=joined("mask"),
        ended=torch.cat([part.ended for part in parts]),
        log_probs=joined("log_probs"),
        entropy=joined("entropy"),
        kept=None if parts[0].kept is None else joined("kept"),
    )


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
