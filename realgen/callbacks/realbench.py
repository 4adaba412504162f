"""RealBench's Detector-Scoring during the training of a policy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from realgen.benchmark.inputs.drawing import image_seed
from realgen.benchmark.inputs.matching import FileFormats, FormatMatching, check_matching
from realgen.benchmark.inputs.prompt_set import Length, categories_of, category_numbers, choose_evenly, read_prompt_set
from realgen.callbacks.ema import averaged_weights
from realgen.callbacks.run_context import iteration_of, trained_of
from realgen.checks import check_at_least
from realgen.detectors import Detector
from realgen.functional.images import from_uint8, to_uint8
from realgen.functional.network_input import check_images
from realgen.metrics import DetectorScoring
from realgen.parallel import world_size
from realgen.policies.base import Policy, Progress


class RealBenchScoring(Callback):
    """Draw a benchmark's prompts with the policy (of ``EMA``, if there is one) and log how real detectors find them.

    ``realbench/NAME`` is mean P(real) x 100, ``realbench/NAME_judged_real`` the share with P(real) > 0.5 in percent,
    and ``realbench/NAME/CATEGORY`` the mean of each category; images with NaN are in none of them, and
    ``realbench/failed/NAME`` counts them. Prompts and seeds are those of ``realgen.realbench`` with the same ``seed``;
    the ranks share the prompts. A detector of the reward would show how well the policy learned it, not how real the
    images are: give others. ValueError if a number is out of its range, there is no detector, or the prompts cannot be
    read.

    Args:
        prompts: Folder in RealBench's layout, or a file of prompts.
        detectors: Detectors by name.
        every_n_iterations: GRPO iterations between two scorings, >= 1.
        length: Of a folder, whether its short or its long prompts.
        num_prompts: Number of prompts, evenly spaced; null for all.
        matching: How the benchmark makes images alike; null leaves them unchanged.
        batch_size: Images that a rank draws at a time, >= 1.
        seed: Of the images.
    """

    def __init__(
        self,
        prompts: str,
        detectors: Mapping[str, Detector],
        every_n_iterations: int = 100,
        length: Length | None = None,
        num_prompts: int | None = None,
        matching: FormatMatching | None = None,
        batch_size: int = 8,
        seed: int = 0,
    ) -> None:
        check_at_least(1, every_n_iterations=every_n_iterations, batch_size=batch_size)
        if not detectors:
            raise ValueError("detectors must name at least one.")
        self.prompts = choose_evenly(read_prompt_set(Path(prompts), length=length), num_prompts)
        self.detectors = detectors
        self.every_n_iterations = every_n_iterations
        self.matching = matching
        self.batch_size = batch_size
        self.seed = seed

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise TypeError if the module trains no policy."""
        _policy_of(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        """Score every ``every_n_iterations``; check after the first one that ``matching`` would not enlarge images."""
        if outputs["samples"].images.shape[-1] > 0:  # a policy of texts may train without an image policy
            self._check_size(outputs["samples"].images)
        if iteration_of(pl_module) % self.every_n_iterations:
            return
        policy = _policy_of(pl_module)
        with averaged_weights(trainer, policy):
            values = self.scores(policy, rank=trainer.global_rank, progress=getattr(pl_module, "progress", None))
        pl_module.log_dict({f"realbench/{name}": value for name, value in values.items()})

    def scores(self, policy: Policy, *, rank: int = 0, progress: Progress | None = None) -> dict[str, float]:
        """Draw and score this rank's share of the prompts, and combine the ranks' results: the same on every rank."""
        categories = categories_of(self.prompts)
        metrics = {name: DetectorScoring(detector, len(categories)) for name, detector in self.detectors.items()}
        per_rank = -(-len(self.prompts) // world_size())  # all ranks draw equally often, some a prompt twice
        rows = [rank + world_size() * turn for turn in range(per_rank)]
        for start in range(0, per_rank, self.batch_size):
            numbers = rows[start : start + self.batch_size]
            chosen = [self.prompts[number % len(self.prompts)] for number in numbers]
            seeds = [image_seed(self.seed, prompt) for prompt in chosen]
            images = policy.sample([prompt.prompt for prompt in chosen], seeds, progress=progress)
            check_images(images)
            self._check_size(images)
            drawn = images.isfinite().flatten(1).all(dim=1).view(-1, 1, 1, 1)  # one with NaN is not scored
            images = torch.where(drawn, from_uint8(to_uint8(images)), torch.nan)  # as in the benchmark's files
            where = {
                "prompts": torch.tensor([prompt.number for prompt in chosen]),
                "categories": category_numbers(chosen, categories),
                "valid": torch.tensor([number < len(self.prompts) for number in numbers]),
            }
            for metric in metrics.values():
                metric.to(images.device).update(images if self.matching is None else self.matching(images), **where)
        values: dict[str, float] = {}
        for name, metric in metrics.items():
            realism, judged_real = metric.compute()
            means = realism.mean.reshape(-1).tolist()
            values |= {name: means[0], f"{name}_judged_real": float(judged_real.mean.reshape(-1)[0])}
            values[f"failed/{name}"] = float(len(self.prompts) - realism.number.reshape(-1)[0])
            values |= {f"{name}/{category}": mean for category, mean in zip(categories, means[1:], strict=True)}
        return values

    def _check_size(self, images: Float[Tensor, "rows 3 height width"]) -> None:
        """Raise ValueError if ``matching`` would enlarge images, as the benchmark does for files."""
        height, width = images.shape[-2:]
        drawn = FileFormats(len(images), 0.0, None, min(height, width), "the policy's images", float(height == width))
        check_matching(self.matching, {"policy": drawn})


def _policy_of(module: LightningModule) -> Policy:
    policy = trained_of(module)
    if not isinstance(policy, Policy):
        raise TypeError(f"{type(policy).__name__} cannot draw; RealBenchScoring is for the training of a policy.")
    return policy
