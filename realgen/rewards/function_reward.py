"""A reward that is a plain function."""

import importlib
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from realgen.functional.images import to_uint8
from realgen.rewards.base import Reward
from realgen.types import Samples


class FunctionReward(Reward):
    """What ``function(images, prompts, metadata)`` returns: one number per image, higher is better.

    ``prompts`` are texts as the user wrote them, ``metadata`` dicts of what else the shards know of each prompt, both
    one per image; a number that is None or NaN marks an image that cannot be scored. Images that hold NaN are not
    shown, and get NaN. A function with a network of its own is better a ``Reward``, which is moved between devices.
    ValueError if it cannot be imported, or does not take three arguments.

    Args:
        function: Where it can be imported: ``module.name``; a module in the current folder is found.
        images: ``tensor``: [rows, 3, H, W] in [0, 1] on the device of the policy; ``pil``: a list of ``PIL.Image``.
    """

    def __init__(self, function: str, images: Literal["tensor", "pil"] = "tensor") -> None:
        self.path, self.images = function, images
        self.function = _import(function)

    @property
    def name(self) -> str:
        """The function's."""
        return self.path.rpartition(".")[2]

    def score(self, samples: Samples) -> Float[Tensor, " rows"]:
        """Return one number per row [B]; NaN for images with NaN, and for rows that the function did not score.

        ValueError if the function returns no list of numbers, or one of another length.
        """
        scores = torch.full((len(samples.images),), torch.nan, device=samples.images.device)
        rows = samples.images.isfinite().flatten(1).all(1).nonzero().flatten().tolist()
        if rows:
            shown: Any = samples.images[rows]
            if self.images == "pil":
                shown = [to_pil_image(image) for image in to_uint8(shown).cpu()]
            prompts = [samples.row_prompts[row] for row in rows]
            metadata = [dict(samples.metadata[row // samples.group_size]) for row in rows]
            scores[rows] = scores.new_tensor(self._checked(self.function(shown, prompts, metadata), len(rows)))
        return scores

    def _checked(self, returned: Any, rows: int) -> list[float]:
        if isinstance(returned, Tensor) or type(returned).__module__ == "numpy":
            returned = returned.tolist()
        expected = f"reward {self.path!r} must return a list of {rows} numbers, one per image"
        if not isinstance(returned, list | tuple):
            raise ValueError(f"{expected}, got a {type(returned).__name__}.")
        if len(returned) != rows:
            raise ValueError(f"{expected}, got {len(returned)}.")
        for number, value in enumerate(returned):
            if not (value is None or isinstance(value, int | float) or getattr(value, "ndim", None) == 0):
                raise ValueError(f"{expected}, got a {type(value).__name__} for image {number}.")
        return [math.nan if value is None else float(value) for value in returned]


def _import(path: str) -> Callable[..., Any]:
    module, _, name = path.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ValueError, ImportError, AttributeError) as error:  # the first for a path without a dot
        raise ValueError(f"function must be module.name, which Python can import, got {path!r}: {error}.") from error
    try:
        inspect.signature(function).bind(None, None, None)
    except TypeError as error:  # also of what cannot be called
        raise ValueError(f"function must take (images, prompts, metadata), got {path!r}: {error}.") from error
    return function
