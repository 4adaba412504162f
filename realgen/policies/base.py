"""The contract of a policy: it samples, and it scores what it sampled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.parallel import compute_device
from realgen.policies.weight_copy import LaggedWeights
from realgen.types import PolicyScore, Rewrite, Rollout

Progress = Callable[[str, int, int], None]
"""Called with (phase, done, total) while something long goes on; phase is "rollout", "sample" or "update"."""


class Policy(nn.Module, ABC):
    """A model that GRPO trains: it samples, and it scores what it sampled.

    Weights are read by ``load``, not by the constructor, so that a config error costs no time and each rank loads
    inside ``LightningModule.configure_model``. Only trained weights and their frozen host live in the ``state_dict``;
    text encoders and decoders stay outside.
    """

    score_fields: frozenset[str] = frozenset()
    """Optional fields of ``PolicyScore`` that its scores have."""
    scores_rollouts = True
    """Whether a rollout's log-probabilities must be those of ``score``; else the sampler's own will do."""

    @abstractmethod
    def load(self) -> None:
        """Read the weights and attach the adapters; a second call does nothing."""

    @abstractmethod
    def rollout_chunks(
        self,
        prompts: Sequence[str],
        group_size: int,
        *,
        generator: torch.Generator,
        iteration: int = 0,
        progress: Progress | None = None,
    ) -> Iterator[Rollout]:
        """Sample ``group_size`` samples of each prompt, without gradient, some consecutive prompts at a time.

        Rewards of one chunk are computed while the next one is sampled.

        Args:
            prompts: P texts.
            group_size: G.
            generator: The only source of randomness.
            iteration: GRPO iteration, for what changes over a run (a sliding window).
            progress: Called while sampling goes on.

        Yields:
            Rollouts of some of the prompts, in order.
        """

    def rollout(self, prompts: Sequence[str], group_size: int, *, generator: torch.Generator, **how: Any) -> Rollout:
        """Return all chunks of ``rollout_chunks`` as one rollout; ``how`` are its ``iteration`` and ``progress``."""
        return Rollout.concatenate(list(self.rollout_chunks(prompts, group_size, generator=generator, **how)))

    def join_states(self, states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Join the ``policy_state`` of rollouts of other prompts, which texts fill up to one length."""
        return {name: torch.cat([state[name] for state in states]) for name in states[0]}

    @abstractmethod
    def score(self, rollout: Rollout, rows: Tensor) -> PolicyScore:
        """Score the given rows' decisions under the current weights, with gradient if it is enabled."""

    @abstractmethod
    def reference(self) -> AbstractContextManager[None]:
        """Inside this context the policy is its frozen start."""

    @abstractmethod
    def sample(
        self, prompts: Sequence[str], seeds: Sequence[int], *, progress: Progress | None = None
    ) -> Float[Tensor, "rows 3 height width"]:
        """Draw one image per (prompt, seed) the way the policy is deployed; [rows, 3, H, W] in [0, 1], no gradient."""

    def sample_rewritten(
        self, prompts: Sequence[str], seeds: Sequence[int], *, progress: Progress | None = None
    ) -> tuple[Float[Tensor, "rows 3 height width"], list[Rewrite] | None]:
        """Return ``sample``, and the texts that the image model was given where they are not the prompts themselves."""
        return self.sample(prompts, seeds, progress=progress), None

    @abstractmethod
    def export(self, directory: Path) -> Path:
        """Write the trained weights in the format of the policy's home library; return the path to load."""

    @property
    def lagged(self) -> Mapping[str, LaggedWeights]:
        """Weights that lag behind the trained ones, by name."""
        return {}

    @property
    def sampler(self) -> str | None:
        """The lagged weights that rollouts use; ``None``: the trained ones."""
        return None

    def with_lagged(self, name: str | None) -> AbstractContextManager[None]:
        """Inside this context the policy has its lagged weights of this name; ``None``: its own."""
        return self.lagged[name].applied(self) if name is not None and self.lagged[name].lags else nullcontext()

    def end_iteration(self, iteration: int) -> None:
        """Let the lagged weights follow the trained ones after an iteration, counted from 1."""
        for lagged in self.lagged.values():
            lagged.end_iteration(self, iteration)

    def check_group_size(self, group_size: int) -> None:
        """Raise ValueError for a group size that the policy cannot sample; works before ``load``."""
        if group_size < 1:
            raise ValueError(f"group_size must be at least 1, got {group_size}.")

    @property
    def has_reference(self) -> bool:
        """Whether ``reference`` works."""
        return True

    @property
    def decider(self) -> Policy:
        """The policy whose decisions a rollout holds: this one, or one inside it."""
        return self

    def check_trainable(self, key: str) -> None:
        """Raise ValueError, behind the config's ``key``, if no decision could be trained; works before ``load``."""

    @property
    def transformer_evals(self) -> int:
        """Rows that an image transformer has been called with so far, those for guidance included."""
        return 0

    def statistics(self, rollout: Rollout) -> dict[str, float]:
        """Return what only this kind of policy can tell of a rollout of its own on this rank, as scalars to log."""
        return {}

    @property
    def device(self) -> torch.device:
        """Where the trained weights are used."""
        return compute_device(next(self.parameters()))

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that GRPO changes, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}
