"""The contract of a metric: computed at validation, and never part of a reward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from realgen.functional.network_input import check_images


class ImageMetric(Metric, ABC):
    """One number for all generated images of a validation.

    Each image is described on its own, in float32 without gradient or autocast; the descriptions of all updates and
    ranks are concatenated, and ``compute`` reads them in float64 on the CPU. So the result does not depend on how the
    images were split into batches or ranks, and no random number is drawn. Detectors and encoders are arguments of the
    constructor, stay out of the state dict, and follow the images to their device.

    Every rank must call ``update`` equally often, all with real images or none; mark padding with ``valid``.
    """

    is_differentiable: bool = False
    higher_is_better: bool
    full_state_update: bool = False
    min_samples_per_prompt: int = 1
    """Fewest images of each prompt that the metric needs."""

    generated: list[Tensor]
    """Descriptions of the generated images, [rows, ...] per update."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("generated", default=[], dist_reduce_fx="cat")

    @abstractmethod
    def describe(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch *feature"]:
        """Return what the metric keeps of each image; ``images`` are checked, float32, in [0, 1]."""

    @abstractmethod
    def compute(self) -> Float[Tensor, ""]:
        """Return the metric over all updates.

        Raises:
            ValueError: If there were too few images.
        """

    def update(
        self,
        images: Float[Tensor, "batch 3 height width"],
        *,
        prompts: Sequence[str],
        real: Float[Tensor, "batch 3 real_height real_width"] | None = None,
        valid: Bool[Tensor, " batch"] | None = None,
    ) -> None:
        """Add generated images and real images of the same prompts.

        Args:
            images: Generated, [B, 3, H, W] in [0, 1]. NaN in a valid row makes the metric NaN.
            prompts: B prompts, one per row.
            real: [B, 3, H', W'] in [0, 1]; ``None`` adds no real image. When a prompt is drawn several times, give its
                real image with the first draw only: copies would make the real images look more alike than they are.
            valid: [B] False for rows that only pad the batch; both their images are left out.

        Raises:
            ValueError: If the images of one kind have another shape, type or range, the numbers of rows differ, or
                ``valid`` is not boolean.
        """
        check_images(images)
        if len(prompts) != len(images):
            raise ValueError(f"prompts must be one per image, {len(images)}, got {len(prompts)}.")
        if real is not None:
            check_images(real, "real")
            if len(real) != len(images):
                raise ValueError(f"real must have one real image per image, {len(images)}, got {len(real)}.")
        keep = torch.ones(len(images), dtype=torch.bool) if valid is None else valid.cpu()
        if keep.dtype != torch.bool or keep.shape != (len(images),):
            raise ValueError(f"valid must be bool [{len(images)}], got {keep.dtype} {list(keep.shape)}.")
        with torch.autocast(images.device.type, enabled=False):
            self.observe(images.float(), prompts, None if real is None else real.to(images.device).float(), keep)

    def observe(
        self,
        images: Float[Tensor, "batch 3 height width"],
        prompts: Sequence[str],
        real: Float[Tensor, "batch 3 real_height real_width"] | None,
        keep: Bool[Tensor, " batch"],
    ) -> None:
        """Append to the states; the arguments are those of ``update``, checked."""
        self.generated.append(self.kept(images, keep))

    def kept(
        self, images: Float[Tensor, "batch 3 height width"], keep: Bool[Tensor, " batch"]
    ) -> Float[Tensor, "kept *feature"]:
        """Return descriptions of the rows to keep, on the metric's device."""
        # All rows are described first: a rank whose batch is only padding then gathers [0, D] like the others.
        return self.describe(images)[keep.to(images.device)].to(self.device)

    def seen(self, state: str) -> Float[Tensor, "rows *feature"]:
        """Return all descriptions of a state, in float64 on the CPU.

        Raises:
            ValueError: If there are none.
        """
        parts = getattr(self, state)
        rows = dim_zero_cat(parts) if len(parts) else torch.empty(0)
        if len(rows) == 0:
            raise ValueError(f"{type(self).__name__} has seen no {state} images; give some to update before compute.")
        return rows.cpu().double()

    def result(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Return ``value`` in float32 on the metric's device."""
        return value.float().to(self.device)


class RealComparison(ImageMetric, ABC):
    """A metric that compares all generated images with all real images."""

    real: list[Tensor]
    """Descriptions of the real images, [rows, ...] per update."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("real", default=[], dist_reduce_fx="cat")

    @abstractmethod
    def compare(
        self, generated: Float[Tensor, "generated *feature"], real: Float[Tensor, "real *feature"]
    ) -> Float[Tensor, ""]:
        """Return the metric from the descriptions of all images, float64 on the CPU."""

    def add_real(self, real: Float[Tensor, "batch 3 height width"]) -> None:
        """Add real images alone; copies of the metric then compare several models with the same ones.

        Args:
            real: [B, 3, H, W] in [0, 1].

        Raises:
            ValueError: If they have another shape, type or range.
        """
        check_images(real, "real")
        with torch.autocast(real.device.type, enabled=False):
            self.real.append(self.kept(real.float(), torch.ones(len(real), dtype=torch.bool)))

    def observe(
        self,
        images: Float[Tensor, "batch 3 height width"],
        prompts: Sequence[str],
        real: Float[Tensor, "batch 3 real_height real_width"] | None,
        keep: Bool[Tensor, " batch"],
    ) -> None:
        """Append the real images too."""
        super().observe(images, prompts, real, keep)
        if real is not None:
            self.real.append(self.kept(real, keep))

    def compute(self) -> Float[Tensor, ""]:
        """Return the metric over all updates.

        Raises:
            ValueError: If there were no generated images or no real images.
        """
        return self.result(self.compare(self.seen("generated"), self.seen("real")))
