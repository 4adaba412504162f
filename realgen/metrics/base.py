"""The contract of a metric: computed at validation, with a standard error, and never part of a reward."""

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from realgen.functional.network_input import check_images

MAX_GROUPS = 40
"""Most groups of prompts that are left out in turn; more would cost time and hardly change a standard error."""


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
    needs_real_images: bool = False
    """Whether it compares with real images; it is left out where the prompts have none."""

    described: ClassVar[tuple[str, ...]] = ("generated",)
    """States of descriptions; the prompt of each row is kept in a state of the same name and ``_prompts``."""

    generated: list[Tensor]
    """Descriptions of the generated images, [rows, ...] per update."""

    def __init__(self) -> None:
        super().__init__()
        for state in self.described:
            self.add_state(state, default=[], dist_reduce_fx="cat")
            self.add_state(f"{state}_prompts", default=[], dist_reduce_fx="cat")

    @abstractmethod
    def describe(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch *feature"]:
        """Return what the metric keeps of each image; ``images`` are checked, float32, in [0, 1]."""

    @abstractmethod
    def compute(self) -> Float[Tensor, ""]:
        """Return the metric over all updates. ValueError if there were too few images."""

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
            self.add("generated", images.float(), prompts, keep)
            if real is not None and "real" in self.described:
                self.add("real", real.to(images.device).float(), prompts, keep)

    def add(
        self,
        state: str,
        images: Float[Tensor, "batch 3 height width"],
        prompts: Sequence[str],
        keep: Bool[Tensor, " batch"],
    ) -> None:
        """Append descriptions of the rows to keep, and their prompts, to a state."""
        # All rows are described first: a rank whose batch is only padding then gathers [0, D] like the others.
        getattr(self, state).append(self.describe(images)[keep.to(images.device)].to(self.device))
        getattr(self, f"{state}_prompts").append(prompt_ids(prompts)[keep].to(self.device))

    def seen(self, state: str) -> Float[Tensor, "rows *feature"]:
        """Return all descriptions of a state, in float64 on the CPU; raise ValueError if there are none."""
        parts = getattr(self, state)
        rows = dim_zero_cat(parts) if len(parts) else torch.empty(0)
        if len(rows) == 0:
            raise ValueError(f"{type(self).__name__} has seen no {state} images; give some to update before compute.")
        return rows.cpu().double()

    def prompts_of(self, state: str) -> Int[Tensor, " rows"]:
        """Return the identity of each row's prompt, see ``prompt_ids``, on the CPU."""
        parts = getattr(self, f"{state}_prompts")
        return dim_zero_cat(parts).cpu() if len(parts) else torch.empty(0, dtype=torch.int64)

    def without_each(self) -> Float[Tensor, " groups"]:
        """Return the metric without each group of prompts, the real images of these prompts left out as well.

        Up to ``MAX_GROUPS`` prompts are a group each, more are dealt into as many groups; the same prompts fall into
        the same groups, so that the values of two validations pair. See ``jackknife_error``. All ranks must call it.

        Returns:
            [G] float64, 2 <= G <= ``MAX_GROUPS``; [0] where too few images would be left, or where the metric has
            states of its own, of which it is not known how to leave a prompt out.
        """
        values = torch.empty(0)
        with self.sync_context():
            known = self.prompts_of("generated").unique()  # sorted
            if len(known) > 1 and len(self._defaults) == 2 * len(self.described):
                groups = [known[first::MAX_GROUPS] for first in range(min(len(known), MAX_GROUPS))]
                prompts = [self.prompts_of(state) for state in self.described]
                keep = [torch.stack([~torch.isin(rows, group) for group in groups]) for rows in prompts]
                with suppress(ValueError):  # of compute: too few images
                    values = self.compute_each(dict(zip(self.described, keep, strict=True)))
        return values.cpu().double()

    def compute_each(self, keep: Mapping[str, Bool[Tensor, "groups rows"]]) -> Float[Tensor, " groups"]:
        """Compute from each choice of rows, by state; override it where the choices can share work."""
        rest, values = copy.copy(self), []
        for group in range(len(keep["generated"])):
            for state in self.described:
                rows = keep[state][group]
                setattr(rest, state, [dim_zero_cat(getattr(self, state))[rows.to(self.device)]])
                setattr(rest, f"{state}_prompts", [self.prompts_of(state)[rows]])
            values.append(type(self).compute(rest))  # not rest.compute, which would ask the other ranks
        return torch.stack(values)

    def reset(self) -> None:
        """Forget all images; where ``compute`` failed, torchmetrics has left the states of all ranks joined."""
        if self._is_synced:
            self.unsync()
        super().reset()

    def result(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Return ``value`` in float32 on the metric's device."""
        return value.float().to(self.device)


class RealComparison(ImageMetric, ABC):
    """A metric that compares all generated images with all real images."""

    described: ClassVar[tuple[str, ...]] = ("generated", "real")
    needs_real_images: bool = True
    real: list[Tensor]
    """Descriptions of the real images, [rows, ...] per update."""
    real_prompts: list[Tensor]

    @abstractmethod
    def compare(
        self, generated: Float[Tensor, "generated *feature"], real: Float[Tensor, "real *feature"]
    ) -> Float[Tensor, ""]:
        """Return the metric from the descriptions of all images, float64 on the CPU."""

    def add_real(self, real: Float[Tensor, "batch 3 height width"]) -> None:
        """Add real images alone; copies of the metric then compare several models with the same ones.

        ValueError if they have another shape, type or range.
        """
        check_images(real, "real")
        with torch.autocast(real.device.type, enabled=False):
            self.add("real", real.float(), [""] * len(real), torch.ones(len(real), dtype=torch.bool))

    def compute(self) -> Float[Tensor, ""]:
        """Return the metric over all updates; raise ValueError if there were no generated or no real images."""
        return self.result(self.compare(self.seen("generated"), self.seen("real")))


def prompt_ids(prompts: Sequence[str]) -> Int[Tensor, " prompts"]:
    """Return 64-bit identities of prompts, the same in every process (unlike ``hash``).

    Equal for equal texts, different for different ones but for one chance in 2^64 a pair.
    """
    digests = (hashlib.blake2b(prompt.encode(), digest_size=8).digest() for prompt in prompts)
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests], dtype=torch.int64)


def jackknife_error(without_each: Float[Tensor, " groups"]) -> float:
    """Standard error of an estimate from its values without each of equal groups (Efron, 1982, section 3.1).

    sqrt((G - 1) / G sum_g (e_g - mean)^2) of [G] estimates, or differences of two; NaN for fewer than two groups.
    """
    groups = len(without_each)
    if groups < 2:
        return float("nan")
    return float(((groups - 1) / groups * (without_each - without_each.mean()).square().sum()).sqrt())


def merge_states(metric: Metric) -> None:
    """Concatenate the tensors in a metric's lists, so that after n updates a list holds about log2(n) of them.

    A small tensor that outlives its batch lies in memory where large buffers of the batch were, and those of the next
    batch no longer fit in between: with a few more tensors per batch the process would grow by as much as the buffers,
    each time. Neighbours are concatenated when the earlier one has no more rows, so a row moves log2(n) times at most.

    The metric's list states hold rows that are concatenated in order; its value stays what it was.
    """
    for state in metric.metric_state.values():
        while isinstance(state, list) and len(state) > 1 and len(state[-2]) <= len(state[-1]):
            last = state.pop()
            state[-1] = torch.cat([state[-1], last])
