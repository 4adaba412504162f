"""Validation on held-out prompts: the rewards that the policy is trained with, and metrics that it never sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from realgen.checks import check_at_least
from realgen.metrics.base import ImageMetric
from realgen.modules.seeds import mix_seed
from realgen.parallel import gather_first_axis
from realgen.policies.base import Policy, Progress
from realgen.rewards.base import Reward
from realgen.types import PromptBatch, RewardOutput, Samples


class Validation:
    """Means of the rewards, and the metrics, over one pass of the validation prompts on all ranks.

    Args:
        metrics: Metrics by name.
        samples_per_prompt: Images drawn of each prompt, >= 1; the module's ``validation_samples_per_prompt``.

    Raises:
        ValueError: If there is to be no image.
    """

    def __init__(self, metrics: Mapping[str, ImageMetric], *, samples_per_prompt: int) -> None:
        check_at_least(1, validation_samples_per_prompt=samples_per_prompt)
        self.metrics = dict(metrics)
        self.samples_per_prompt = samples_per_prompt
        self._sums: dict[str, Tensor] = {}

    def check(self) -> None:
        """Raise ValueError if a metric needs more images of each prompt."""
        for name, metric in self.metrics.items():
            if self.samples_per_prompt < metric.min_samples_per_prompt:
                raise ValueError(
                    f"model.validation_samples_per_prompt: expected at least {metric.min_samples_per_prompt}, because "
                    f"model.metrics.{name} compares the images of one prompt, got {self.samples_per_prompt}."
                )

    def start(self, device: torch.device) -> None:
        """Forget the last pass."""
        self._sums = {}
        for metric in self.metrics.values():
            metric.to(device).reset()

    def step(
        self, policy: Policy, reward: Reward, batch: PromptBatch, *, progress: Progress | None = None
    ) -> dict[str, Any]:
        """Draw and score the images of one batch.

        Args:
            policy: Draws the images.
            reward: Scores them.
            batch: Held-out prompts with their seeds.
            progress: Called while images are drawn.

        Returns:
            ``samples``, ``rewards`` and ``seeds`` (of the rows), for callbacks that show images.
        """
        prompts, seeds = list(batch.prompts), sample_seeds(batch.seeds, self.samples_per_prompt)
        rows = [prompt for prompt in prompts for _ in range(self.samples_per_prompt)]
        images, rewrites = policy.sample_rewritten(rows, seeds, progress=progress)
        texts = None if rewrites is None else tuple(rewrites)
        samples = Samples(batch.prompts, self.samples_per_prompt, images, texts, batch.metadata)
        rewards = reward(samples)
        self._add_rewards(rewards, batch.mask.to(rewards.total.device))
        for sample in range(self.samples_per_prompt):
            # A real image counts once, however often its prompt is drawn.
            real = batch.images if sample == 0 else None
            for metric in self.metrics.values():
                metric.update(images[sample :: self.samples_per_prompt], prompts=prompts, real=real, valid=batch.mask)
        return {"samples": samples, "rewards": rewards, "seeds": seeds}

    def results(self) -> dict[str, Tensor]:
        """Rewards and metrics of the whole pass, the same on every rank; a reward that scored nothing gives NaN."""
        sums = torch.stack(list(self._sums.values())) if self._sums else torch.zeros(0, 2)  # [names, 2]
        totals = gather_first_axis(sums[None]).sum(0)
        means = {name: total / count for name, (total, count) in zip(self._sums, totals, strict=True)}
        return {**means, **{name: metric.compute() for name, metric in self.metrics.items()}}

    def _add_rewards(self, rewards: RewardOutput, valid: Bool[Tensor, " prompts"]) -> None:
        components = {f"reward/{name}": values for name, values in rewards.components.items()}
        values = {"reward": rewards.total, **components}
        for name, value in values.items():
            counts = value.isfinite() & valid[:, None]
            added = torch.stack([torch.where(counts, value, 0.0).sum(), counts.sum()]).double()
            self._sums[name] = self._sums[name] + added if name in self._sums else added


def sample_seeds(seeds: Sequence[int], samples_per_prompt: int) -> list[int]:
    """Seeds of several validation samples of each prompt, prompt-major.

    Args:
        seeds: One seed per prompt.
        samples_per_prompt: Samples of each prompt; the first one keeps the prompt's own seed.

    Returns:
        ``len(seeds) * samples_per_prompt`` seeds in [0, 2**63).

    Example:
        >>> sample_seeds([7, 8], 1)
        [7, 8]
        >>> len(set(sample_seeds([7, 8], 3)))
        6
    """
    return [seed if sample == 0 else mix_seed(seed, sample) for seed in seeds for sample in range(samples_per_prompt)]
