"""One number per image, averaged over prompts and categories with intervals; of detectors, and of anything else."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from realgen.checks import check_at_least, check_confidence
from realgen.detectors.base import Detector
from realgen.functional.network_input import check_images
from realgen.functional.score_table import ScoreTable, score_table


class ImageScores(Metric):
    """Means of any number that is known of each image, such as a reward, over prompts and categories of prompts.

    Each prompt counts once, however many images it has; intervals are those of ``functional.score_table``. The result
    depends neither on batches, ranks nor order. NaN = not scored, left out.

    Args:
        num_categories: Categories of prompts; 0 for none.
        resamples: Of each interval, at least 1.
        confidence: Of each interval, in (0, 1).
        seed: Of the resamples.
    """

    is_differentiable: bool = False
    full_state_update: bool = False
    values: list[Tensor]
    prompts: list[Tensor]
    categories: list[Tensor]

    def __init__(
        self, num_categories: int = 0, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
    ) -> None:
        super().__init__()
        check_at_least(0, num_categories=num_categories)
        check_at_least(1, resamples=resamples)
        check_confidence(confidence)
        self.num_categories = num_categories
        self.resamples, self.confidence, self.seed = resamples, confidence, seed
        for name in ("values", "prompts", "categories"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(
        self,
        values: Float[Tensor, " rows"],
        *,
        prompts: Int[Tensor, " rows"],
        categories: Int[Tensor, " rows"],
        valid: Bool[Tensor, " rows"] | None = None,
    ) -> None:
        """Add the numbers [B] of some images, NaN for one that could not be scored.

        ``prompts`` are the numbers of their prompts, ``categories`` those of the prompts' categories, -1 for none; rows
        that are not ``valid`` only pad the batch.

        Raises:
            ValueError: If a category is not in [-1, ``num_categories``).
        """
        if bool(((categories < -1) | (categories >= self.num_categories)).any()):
            low, high = int(categories.min()), int(categories.max())
            raise ValueError(f"categories must be -1 to {self.num_categories - 1}, got {low} to {high}.")
        keep = torch.ones(len(values), dtype=torch.bool) if valid is None else valid.cpu()
        self.values.append(values.detach().float().cpu()[keep].to(self.device))
        self.prompts.append(prompts.cpu()[keep].to(self.device))
        self.categories.append(categories.cpu()[keep].to(self.device))

    def seen(self) -> tuple[Float[Tensor, " rows"], Int[Tensor, " rows"], Int[Tensor, " rows"]]:
        """Return values, prompts and categories of all images so far, on the CPU; raise ValueError without any."""
        states = (self.values, self.prompts, self.categories)
        if not len(self.values):
            raise ValueError(f"{type(self).__name__} has seen no images; give some to update before compute.")
        values, prompts, categories = (dim_zero_cat(state).cpu() for state in states)
        return values, prompts, categories

    def compute(self) -> Any:
        """Return means and intervals; scalars where there are no categories, as torchmetrics squeezes one number."""
        return self._table(self.seen()[0])

    def _table(self, values: Float[Tensor, " rows"], *, shares: bool = False, scale: float = 1.0) -> ScoreTable:
        """Return means and intervals of numbers of the images, in the order of ``seen``, times ``scale``."""
        _, prompts, categories = self.seen()
        how: dict[str, Any] = {"resamples": self.resamples, "confidence": self.confidence, "seed": self.seed}
        found = score_table(values, prompts, categories, num_categories=self.num_categories, shares=shares, **how)
        mean, low, high = ((scale * part).float().to(self.device) for part in (found.mean, found.low, found.high))
        return ScoreTable(mean, low, high, found.number.to(self.device))


class DetectorScoring(ImageScores):
    """RealBench's Detector-Scoring (RealGen, arXiv:2512.00473): how real a detector takes the images of a model for.

    Two numbers, both in percent, overall and by category: mean P(real) x 100, and the share with P(real) > 0.5, where
    P(real) is 1 - p_fake. Neither means anything if the detector cannot tell real images from generated ones: see
    ``DetectorQuality``.

    Args:
        detector: Scores the images.
        num_categories: Categories of prompts; 0 for none.
        **settings: Of ``ImageScores``.
    """

    higher_is_better: bool = True

    def __init__(self, detector: Detector, num_categories: int = 0, **settings: Any) -> None:
        super().__init__(num_categories, **settings)
        self.detector = detector

    def update(
        self,
        images: Float[Tensor, "rows 3 height width"],
        *,
        prompts: Int[Tensor, " rows"],
        categories: Int[Tensor, " rows"],
        valid: Bool[Tensor, " rows"] | None = None,
    ) -> None:
        """Score images [B, 3, H, W] in [0, 1]; one with NaN is not scored. The others are as in ``ImageScores.update``.

        ValueError if the images have another shape, type or range, or a category is out of its range.
        """
        check_images(images)
        scores = 1 - self.detector.to(images.device)(images)
        super().update(scores, prompts=prompts, categories=categories, valid=valid)

    def compute(self) -> tuple[ScoreTable, ScoreTable]:
        """Return mean P(real) x 100 and share above 0.5, in percent; scalars where there are no categories."""
        p_real = self.seen()[0]
        judged = torch.where(p_real.isnan(), p_real, (p_real > 0.5).to(p_real))
        return self._table(p_real, scale=100.0), self._table(judged, shares=True, scale=100.0)
