"""Validation on held-out prompts: the rewards that the policy is trained with, and metrics that it never sees."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from realgen.checks import check_at_least
from realgen.failures import report_failure
from realgen.metrics.base import ImageMetric
from realgen.modules.seeds import mix_seed
from realgen.parallel import any_rank, gather_first_axis, together
from realgen.policies.base import Policy, Progress
from realgen.rewards.base import Reward
from realgen.types import PromptBatch, Samples


class Validation:
    """Means of the rewards, and the metrics, over one pass of the validation prompts on all ranks.

    A metric that raises is named, and is NaN on all ranks; the others stand. ``samples_per_prompt`` is at least 1.
    """

    def __init__(self, metrics: Mapping[str, ImageMetric], *, samples_per_prompt: int) -> None:
        check_at_least(1, validation_samples_per_prompt=samples_per_prompt)
        self.metrics = dict(metrics)
        self.samples_per_prompt = samples_per_prompt
        self.failed: set[str] = set()
        """Metrics that have raised in this pass, on this rank."""
        self.without_each: dict[str, list[float]] = {}
        """By metric, its values without each group of prompts, of the last pass."""
        self._sums: dict[str, Tensor] = {}
        self._device = torch.device("cpu")

    def without_real_images(self) -> list[str]:
        """Leave out the metrics that need real images, and return their names."""
        names = [name for name, metric in self.metrics.items() if metric.needs_real_images]
        for name in names:
            del self.metrics[name]
        return names

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
        self._sums, self._device, self.failed, self.without_each = {}, device, set(), {}
        for name, metric in self.metrics.items():
            with self._may_fail(name):
                metric.to(device).reset()

    def step(
        self, policy: Policy, reward: Reward, batch: PromptBatch, *, progress: Progress | None = None
    ) -> dict[str, Any]:
        """Draw and score held-out prompts: ``samples``, ``rewards``, ``seeds``, and the names of ``failed`` metrics."""
        prompts, seeds = list(batch.prompts), sample_seeds(batch.seeds, self.samples_per_prompt)
        rows = [prompt for prompt in prompts for _ in range(self.samples_per_prompt)]
        images, rewrites = policy.sample_rewritten(rows, seeds, progress=progress)
        texts = None if rewrites is None else tuple(rewrites)
        samples = Samples(batch.prompts, self.samples_per_prompt, images, texts, batch.metadata)
        with together(self._device):
            rewards = reward(samples)
        components = {f"reward/{name}": values for name, values in rewards.components.items()}
        valid = batch.mask.to(rewards.total.device)[:, None]
        for name, value in {"reward": rewards.total, **components}.items():
            counts = value.isfinite() & valid
            added = torch.stack([torch.where(counts, value, 0.0).sum(), counts.sum()]).double()
            self._sums[name] = self._sums[name] + added if name in self._sums else added
        for sample in range(self.samples_per_prompt):
            # A real image counts once, however often its prompt is drawn.
            real = batch.images if sample == 0 else None
            drawn = images[sample :: self.samples_per_prompt]
            for name, metric in self.metrics.items():
                if name not in self.failed:
                    with self._may_fail(name, f" at {prompts[0]!r} and {len(prompts) - 1} more prompts"):
                        metric.update(drawn, prompts=prompts, real=real, valid=batch.mask)
        return {"samples": samples, "rewards": rewards, "seeds": seeds, "failed": frozenset(self.failed)}

    def results(self) -> dict[str, Tensor]:
        """Rewards and metrics of the whole pass, the same on every rank; a reward that scored nothing gives NaN."""
        sums = torch.stack(list(self._sums.values())) if self._sums else torch.zeros(0, 2, device=self._device)
        totals = gather_first_axis(sums[None]).sum(0)  # [names, 2]
        means = {name: total / count for name, (total, count) in zip(self._sums, totals, strict=True)}
        failed = torch.tensor([name in self.failed for name in self.metrics], device=self._device)
        # One decision for all ranks: computing a metric gathers what each of them has seen.
        somewhere = gather_first_axis(failed.float()[None]).any(0).tolist()
        for (name, metric), fails in zip(self.metrics.items(), somewhere, strict=True):
            means[name] = torch.full((), torch.nan, device=self._device)
            if not fails:
                with self._may_fail(name):
                    result = torch.as_tensor(metric.compute())
                    if result.numel() != 1:
                        raise ValueError(f"compute must return one number, got shape {tuple(result.shape)}.")
                    means[name] = result.reshape(())
                if any_rank(name in self.failed, self._device):
                    means[name] = torch.full((), torch.nan, device=self._device)
                    continue
                with self._may_fail(name, effect="has no interval"):
                    self.without_each[name] = metric.without_each().tolist()
        return means

    @contextmanager
    def _may_fail(self, name: str, where: str = "", *, effect: str = "is left empty") -> Iterator[None]:
        """Name a metric that raises inside, and what it costs."""
        try:
            yield
        except Exception as error:  # a metric may raise anything
            self.failed.add(name)
            report_failure(f"model.metrics.{name}", error, f"{effect} in this validation{where}")


def sample_seeds(seeds: Sequence[int], samples_per_prompt: int) -> list[int]:
    """Seeds in [0, 2**63) of validation samples, prompt-major; the first of a prompt keeps the prompt's own seed."""
    return [seed if sample == 0 else mix_seed(seed, sample) for seed in seeds for sample in range(samples_per_prompt)]
