"""One iteration run with the policy's own code, in which every latent is one number and no network answers.

The number of calls and rows that the policy's settings lead to is counted, not predicted by a formula.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from realgen.modules.policy_update import PolicyUpdate, reference_score, shuffled_minibatches
from realgen.objectives.base import Objective
from realgen.policies import DiffusionPolicy
from realgen.policies.backbones.base import Backbone, Schedule
from realgen.types import PolicyScore, Rollout

MAX_STARTS = 8
"""Starts of the window that are run; where there are more, as many, evenly spread and symmetric."""


class CallKind(NamedTuple):
    """Calls of the velocity that cost the same for each row."""

    phase: str
    """``rollout``, ``reference``, ``lagged`` (weights that lag, or those that sampled) or ``update``."""
    guided: bool
    """Whether the negative prompt is evaluated too."""
    rounded: bool
    """Whether autocast computes in a lower precision than the weights have."""


@dataclass
class Counts:
    """What one iteration of one rank computes, as a mean over the starts of the window."""

    rows: dict[CallKind, float] = field(default_factory=dict)
    """Rows of velocity calls; guidance makes two transformer evaluations of each."""
    largest_call: Counter[CallKind] = field(default_factory=Counter)
    """Most rows of one call."""
    decision_calls: dict[str, set[int]] = field(default_factory=lambda: {"rollout": set(), "update": set()})
    """Numbers of rows of the calls that decide inside the window, and that score those decisions in the update."""
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
        """Count the rows that the transformer is called with in a phase."""
        return sum((rows * (1 + kind.guided) for kind, rows in self.rows.items() if kind.phase == phase), 0.0)


class CountingBackbone(Backbone):
    """Count the calls, and answer with zeros; schedule and guidance are those of the real backbone.

    ``window`` are the timesteps inside the window.
    """

    lora_targets = ()  # the fake transformer has no layers

    def __init__(self, real: Backbone, counts: Counts, window: Tensor) -> None:
        # Above its own cfg_off, 1, exactly where the real one is above its own: 0 for some models.
        super().__init__("dry_run", cfg_scale=2.0 if real.guided else 1.0, cache_size=real.cache_size)
        self.real, self.counts, self.window = real, counts, window
        self.phase = "rollout"

    def load(self) -> None:
        """Make the fake transformer: weights that have a device and a type."""
        self.transformer = nn.LayerNorm(1)

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Return the shape of one number."""
        return (1, 1, 1)

    def schedule(self, num_steps: int, height: int, width: int) -> Schedule:
        """Return the real schedule."""
        return self.real.schedule(num_steps, height, width)

    def velocity(self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        """Count the rows."""
        counts, rows = self.counts, len(latents)
        kind = CallKind(self.phase, self.guided, torch.is_autocast_enabled(latents.device.type))
        counts.rows[kind] = counts.rows.get(kind, 0.0) + rows
        counts.largest_call[kind] = max(counts.largest_call[kind], rows)
        if self.phase in counts.decision_calls and bool(torch.isin(timesteps, self.window).any()):
            counts.decision_calls[self.phase].add(rows)
        return torch.zeros_like(latents)

    def decode(self, latents: Tensor) -> Tensor:
        """Count the latents."""
        self.counts.decoded += len(latents)
        self.counts.decode_batch = max(self.counts.decode_batch, len(latents))
        return latents.new_zeros(len(latents), 3, 1, 1)

    def encode(self, prompt: str) -> dict[str, Tensor]:
        """Count the prompt; the negative one is embedded once in a run, and does not count."""
        self.counts.encoded += bool(prompt)
        return {"embeds": torch.zeros(1)}

    def blocks(self) -> list[nn.Module]:
        """Return none."""
        return []

    def frozen(self) -> list[nn.Module]:
        """Return none."""
        return []

    def save_adapter(self, directory: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        """Write nothing."""

    def save_transformer(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """Write nothing."""


def count_calls(
    policy: DiffusionPolicy,
    backbone: Backbone,
    objective: Objective,
    settings: Any,
    *,
    prompts: int,
) -> Counts:
    """Count what one iteration of one rank computes if no row has zero advantage, as means over the window's starts.

    The policy is not loaded, and left as it is; ``backbone`` is the same policy's, loaded, for its schedule and
    guidance. The objective decides whether the reference and lagged weights are scored; ``settings`` has the module's
    ``group_size``, ``microbatch_size``, ``inner_epochs`` and ``updates_per_epoch``.
    """
    microbatch_size: int = settings.microbatch_size
    starts = _spread(policy.step_window.starts(policy.num_steps))
    timesteps = backbone.schedule(policy.num_steps, policy.height, policy.width).timesteps
    size = policy.step_window.decisions(policy.num_steps)
    counts = Counts(updates=settings.inner_epochs * settings.updates_per_epoch)
    for start in starts:
        counting = CountingBackbone(backbone, counts, timesteps[start : start + size])
        fake = _fake_policy(policy, counting, start)
        generator = torch.Generator().manual_seed(0)
        texts = [f"prompt {index}" for index in range(prompts)]
        rollout = Rollout.concatenate(list(fake.rollout_chunks(texts, settings.group_size, generator=generator)))
        with _phase(counting, "reference"):
            reference = reference_score(fake, objective, rollout, microbatch_size)
        with _phase(counting, "lagged"):
            update = PolicyUpdate(
                fake,
                objective,
                rollout,
                torch.zeros(len(rollout.mask)),
                reference,
                microbatch_size=microbatch_size,
                tolerance=0.0,
                skip_zero_advantages=False,
                several_updates=counts.updates > 1,
            )
        counts.images = len(rollout.images)
        counts.stored_latents = _stored(rollout, [reference, update.old, *update.lagged.values()])
        with _phase(counting, "update"):
            for _ in range(settings.inner_epochs):
                for rows in shuffled_minibatches(len(rollout.mask), settings.updates_per_epoch, generator):
                    for part in rows.split(microbatch_size):
                        fake.score(rollout, part)
                        counts.graph_rows = max(counts.graph_rows, rollout.mask[part].numel())
    counts.rows = {kind: rows / len(starts) for kind, rows in counts.rows.items()}
    counts.encoded /= len(starts)
    counts.decoded /= len(starts)
    return counts


def _spread(starts: range) -> list[int]:
    """Choose all, or a symmetric few: of what grows evenly with the start, they have the mean of all."""
    if len(starts) <= MAX_STARTS:
        return list(starts)
    half = [starts[0] + round(i * (len(starts) - 1) / (MAX_STARTS - 1)) for i in range(MAX_STARTS // 2)]
    return [*half, *(starts[0] + starts[-1] - start for start in reversed(half))]


def _fake_policy(policy: DiffusionPolicy, backbone: CountingBackbone, start: int) -> DiffusionPolicy:
    """Copy a policy that is not loaded onto another backbone, its window always at one start, and load the copy."""

    def sample(num_prompts: int, *_: int, generator: torch.Generator, **__: int) -> Int[Tensor, " prompts"]:
        return torch.full((num_prompts,), start, dtype=torch.long, device=generator.device)

    fake = copy.deepcopy(policy)
    fake.backbone = backbone
    vars(fake.step_window)["sample"] = sample
    # The reference is a second fake transformer: neither has layers that adapters could change.
    fake.lora, fake.keep_reference = None, True
    fake.gradient_checkpointing = fake.compile_blocks = fake.merge_adapters = False
    fake.load()
    for lagged in fake.lagged.values():
        lagged.lags = True  # as from the second iteration on
    return fake


@contextmanager
def _phase(backbone: CountingBackbone, name: str) -> Iterator[None]:
    before, backbone.phase = backbone.phase, name
    yield
    backbone.phase = before


def _stored(rollout: Rollout, scores: Sequence[PolicyScore | None]) -> int:
    """Count the latents in what is kept until the update; a latent is one number here."""
    kept: list[Tensor] = list(rollout.policy_state.values())
    for score in scores:
        if score is not None:
            kept += [] if score.velocity is None else [score.velocity]
            kept += [] if score.gaussian is None else [score.gaussian.mean]
            kept += [] if score.draw is None else [score.draw.target]
    return sum(part.numel() for part in kept if part.ndim > 2)
