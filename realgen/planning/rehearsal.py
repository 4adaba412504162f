"""One iteration played through with the policy's own code, in which every latent is one number and no model answers.

So whatever the policy's settings do to the number of calls and rows is counted, not foretold by a formula.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from realgen.modules.policy_update import reference_score, shuffled_minibatches
from realgen.objectives.base import Objective
from realgen.policies import DiffusionPolicy
from realgen.policies.backbones.base import Backbone, Schedule
from realgen.policies.step_window import StepWindow
from realgen.types import PolicyScore, Rollout

MOST_STARTS = 8
"""Places of the window that are played; where there are more, as many, evenly spread and symmetric."""


class Kind(NamedTuple):
    """Calls of the velocity that cost the same for each row."""

    phase: str
    """``rollout``, ``reference`` or ``update``."""
    guided: bool
    """Whether the negative prompt is asked too."""
    rounded: bool
    """Whether autocast lets it compute in a lower precision than its weights have."""


@dataclass
class Counts:
    """What one iteration of one rank asks for, as a mean over the places of the window."""

    rows: dict[Kind, float] = field(default_factory=dict)
    """Rows of velocity calls; guidance makes two transformer evaluations of each."""
    largest_call: Counter[Kind] = field(default_factory=Counter)
    """Most rows of one call."""
    graph_rows: int = 0
    """Most rows whose activations wait for one backward pass."""
    encoded: float = 0.0
    """Prompts that are embedded, each once."""
    decoded: float = 0.0
    """Latents that are decoded."""
    decode_batch: int = 0
    """Most latents decoded at a time."""
    stored_latents: int = 0
    """Latents that the rollout and the reference's score keep until the update."""
    images: int = 0
    """Images of the rollout."""
    updates: int = 0
    """Optimizer updates."""

    def evals(self, phase: str) -> float:
        """Rows that the transformer is called with in a phase."""
        return sum((rows * (1 + kind.guided) for kind, rows in self.rows.items() if kind.phase == phase), 0.0)


class FixedWindow(StepWindow):
    """A window of which one place is played.

    Args:
        real: The policy's own.
        start: The place.
    """

    def __init__(self, real: StepWindow, start: int) -> None:
        self.real, self.start = real, start

    def decisions(self, num_steps: int) -> int:
        """As the real one."""
        return self.real.decisions(num_steps)

    def starts(self, num_steps: int) -> range:
        """As the real one: a solver may make its steps fit all of them."""
        return self.real.starts(num_steps)

    def sample(
        self, num_prompts: int, num_steps: int, *, iteration: int, generator: torch.Generator
    ) -> Int[Tensor, " prompts"]:
        """``start`` for every prompt."""
        return torch.full((num_prompts,), self.start, dtype=torch.long, device=generator.device)


class _Stage(nn.Module):
    """Stands for the transformer, with one weight that says where and in what type."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def disable_adapters(self) -> None:
        """Nothing to switch off."""

    def enable_adapters(self) -> None:
        """Nothing to switch on."""


class _Prompter(Backbone):
    """A backbone that writes down what it is asked for and answers zeros."""

    def __init__(self, real: Backbone, counts: Counts) -> None:
        super().__init__("rehearsal", cfg_scale=real.cfg_scale, cache_size=real.cache_size)
        self.real, self.counts = real, counts
        self.transformer = _Stage()
        self.phase = "rollout"

    @property
    def guided(self) -> bool:
        """As the real one, if the policy has not just turned it off."""
        return self.cfg_scale > self.real.cfg_off

    def load(self) -> None:
        """Nothing to read."""

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        """One number."""
        return (1, 1, 1)

    def schedule(self, num_steps: int, height: int, width: int) -> Schedule:
        """The real one."""
        return self.real.schedule(num_steps, height, width)

    def velocity(self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        """Zeros; the call is written down."""
        counts, rows = self.counts, len(latents)
        kind = Kind(self.phase, self.guided, torch.is_autocast_enabled(latents.device.type))
        counts.rows[kind] = counts.rows.get(kind, 0.0) + rows
        counts.largest_call[kind] = max(counts.largest_call[kind], rows)
        return torch.zeros_like(latents)

    def decode(self, latents: Tensor) -> Tensor:
        """Black; the call is written down."""
        self.counts.decoded += len(latents)
        self.counts.decode_batch = max(self.counts.decode_batch, len(latents))
        return latents.new_zeros(len(latents), 3, 1, 1)

    def encode(self, prompt: str) -> dict[str, Tensor]:
        """One number; the text is counted, if it is no negative prompt, which is embedded once in a run."""
        self.counts.encoded += bool(prompt)
        return {"embeds": torch.zeros(1)}

    def blocks(self) -> list[nn.Module]:
        """None."""
        return []

    def frozen(self) -> list[nn.Module]:
        """None."""
        return []

    def save_adapter(self, directory: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        """Nothing to write."""

    def save_transformer(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """Nothing to write."""


def rehearse(
    policy: DiffusionPolicy,
    backbone: Backbone,
    objective: Objective,
    *,
    prompts: int,
    group_size: int,
    microbatch_size: int,
    inner_epochs: int,
    updates_per_epoch: int,
) -> Counts:
    """Count what one iteration of one rank asks for; rows of zero advantage are not spared.

    Args:
        policy: Not loaded; left as it is.
        backbone: The same policy's, loaded, for its schedule and guidance.
        objective: Says whether the reference is asked.
        prompts: P.
        group_size: G.
        microbatch_size: Rows of one loss.
        inner_epochs: How often the rollout is gone through.
        updates_per_epoch: Optimizer updates each time.

    Returns:
        Means over the places where the window may start.
    """
    starts = _some(policy.step_window.starts(policy.num_steps))
    counts = Counts(updates=inner_epochs * updates_per_epoch)
    for start in starts:
        actor, prompter = _actor(policy, backbone, counts, FixedWindow(policy.step_window, start))
        generator = torch.Generator().manual_seed(0)
        texts = [f"prompt {index}" for index in range(prompts)]
        rollout = Rollout.concatenate(list(actor.rollout_chunks(texts, group_size, generator=generator)))
        with _phase(prompter, "reference"):
            reference = reference_score(actor, objective, rollout, microbatch_size)
        counts.images = len(rollout.images)
        counts.stored_latents = _stored(rollout, reference)
        with _phase(prompter, "update"):
            for _ in range(inner_epochs):
                for rows in shuffled_minibatches(len(rollout.mask), updates_per_epoch, generator):
                    for part in rows.split(microbatch_size):
                        actor.score(rollout, part)
                        counts.graph_rows = max(counts.graph_rows, rollout.mask[part].numel())
    counts.rows = {kind: rows / len(starts) for kind, rows in counts.rows.items()}
    counts.encoded /= len(starts)
    counts.decoded /= len(starts)
    return counts


def _some(starts: range) -> list[int]:
    """All, or a symmetric choice: of what grows evenly with the start, it has the mean of all."""
    if len(starts) <= MOST_STARTS:
        return list(starts)
    half = [starts[0] + round(i * (len(starts) - 1) / (MOST_STARTS - 1)) for i in range(MOST_STARTS // 2)]
    return [*half, *(starts[0] + starts[-1] - start for start in reversed(half))]


def _actor(
    policy: DiffusionPolicy, real: Backbone, counts: Counts, window: StepWindow
) -> tuple[DiffusionPolicy, _Prompter]:
    actor, prompter = copy.deepcopy(policy), _Prompter(real, counts)
    actor.backbone, actor.transformer, actor.step_window = prompter, prompter.transformer, window
    actor.latent_shape = prompter.latent_shape(policy.height, policy.width)
    if policy.keep_reference:
        actor._frozen_start = (_Stage(),)
    return actor, prompter


@contextmanager
def _phase(prompter: _Prompter, name: str) -> Iterator[None]:
    before, prompter.phase = prompter.phase, name
    yield
    prompter.phase = before


def _stored(rollout: Rollout, reference: PolicyScore | None) -> int:
    """Latents in what is kept until the update; a latent is one number here."""
    kept: list[Tensor] = list(rollout.policy_state.values())
    for score in (rollout.sampled, reference):
        if score is not None:
            kept += [] if score.velocity is None else [score.velocity]
            kept += [] if score.gaussian is None else [score.gaussian.mean]
    return sum(part.numel() for part in kept if part.ndim > 2)
