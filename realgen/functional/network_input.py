"""Images as frozen networks take them: checked, resized, cropped and normalised, on tensors of any device.

By hand rather than by ``torchvision.transforms``: on tensors those resize with the same kernels, but leave overshoot
outside [0, 1], and a crop and a normalisation are a line each.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.functional.images import resize

Preprocess = Literal["v1", "v2"]
Channels = tuple[float, ...]
"""Of red, green and blue."""
CLIP_MEAN: Channels = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Channels = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)
FIRST_SIZE = 512
"""Side in pixels of the first of the two resizes of ``v1``."""

RANGE_TOLERANCE = 1e-3
"""How far outside [0, 1] rounding may carry a value; a quarter of one 8-bit level."""


@dataclass(frozen=True)
class NetworkInput:
    """The images that a network was trained on, as its authors published it."""

    size: tuple[int, int]
    """Height and width in pixels of the network's input."""
    mean: Channels
    """Of red, green and blue; subtracted from images in [0, 1]."""
    std: Channels
    """Of red, green and blue; divides what is left."""
    mode: Literal["bilinear", "bicubic"] = "bicubic"
    keep_aspect: bool = True
    """Resize so that the image just covers ``resize_to``; False squeezes it to exactly that."""
    resize_to: tuple[int, int] | None = None
    """Height and width before the crop; None resizes to ``size``, so that a square image is not cropped."""
    antialias: bool = True
    """Average over all pixels when shrinking, as Pillow does and OpenCV does not."""


def check_images(images: Tensor, name: str = "images", *, may_lack_pixels: bool = False) -> None:
    """Raise ValueError for what is not a batch [B, 3, H, W] of RGB images in [0, 1]; NaN passes.

    The range may be left by ``RANGE_TOLERANCE``. ``name`` is that of the argument, for messages. Height or width may be
    0 with ``may_lack_pixels``, as for a policy of texts without an image model.

    Raises:
        ValueError: If the tensor is not 4-D, has other than 3 channels or no pixels, is not floating, or leaves [0, 1].
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"{name} must have shape [batch, 3, height, width], got {list(images.shape)}.")
    if 0 in images.shape[2:] and not may_lack_pixels:
        raise ValueError(f"{name} must have pixels, got {list(images.shape)}; has the policy no image_policy to draw?")
    if not images.is_floating_point():
        raise ValueError(f"{name} must be floating in [0, 1], got {images.dtype}; convert with from_uint8.")
    if images.numel() == 0:
        return
    low, high = images.detach().aminmax()
    if bool((low >= -RANGE_TOLERANCE) & (high <= 1 + RANGE_TOLERANCE)):
        return
    outside = (images < -RANGE_TOLERANCE) | (images > 1 + RANGE_TOLERANCE)
    if bool(outside.any()):  # False if minimum and maximum were NaN
        values = images[outside]
        raise ValueError(
            f"{name} must lie in [0, 1], got {values.numel()} values outside, from {values.min():.4g} to "
            f"{values.max():.4g}."
        )


def to_network_input(
    images: Float[Tensor, "batch 3 height width"], wanted: NetworkInput
) -> Float[Tensor, "batch 3 new_height new_width"]:
    """Resize, crop in the middle and normalise images in [0, 1] to what a network wants.

    The numbers are those of torchvision's ``Resize``, ``CenterCrop`` and ``Normalize`` on files, without the rounding
    to 8 bits after the resize.
    """
    height, width = wanted.size
    old = (images.shape[2], images.shape[3])
    new = wanted.resize_to or wanted.size
    if wanted.keep_aspect:
        new = covering(old, new)
    if new != old:
        images = resize(images, new, mode=wanted.mode, antialias=wanted.antialias)
    top, left = round((new[0] - height) / 2), round((new[1] - width) / 2)
    images = images[:, :, top : top + height, left : left + width]
    mean, std = (_of_channels(values, images.dtype, images.device) for values in (wanted.mean, wanted.std))
    return (images - mean) / std


@lru_cache(maxsize=64)
def _of_channels(values: Channels, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "3 1 1"]:
    """Return numbers of the channels, copied to a device once: a GPU's host waits for each copy."""
    with torch.inference_mode(False):  # a tensor made in that mode could take no part in a gradient later
        return torch.tensor(values, dtype=dtype, device=device).view(3, 1, 1)


def covering(old: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest (height, width) of the old aspect that cover a frame; rounded down as torchvision does."""
    (old_height, old_width), (height, width) = old, frame
    if height * old_width <= width * old_height:  # the width decides the scale
        return old_height * width // old_width, width
    return height, old_width * height // old_height


def tower_pixels(
    images: Float[Tensor, "batch 3 height width"],
    size: int,
    *,
    mean: Channels = CLIP_MEAN,
    std: Channels = CLIP_STD,
    preprocess: Preprocess = "v2",
    antialias: bool = True,
) -> Float[Tensor, "batch 3 size size"]:
    """Resize bilinearly to a square (the aspect is not kept) and normalise, as a detector's vision tower was trained.

    Differs from torchvision's ``Resize``, ``ToTensor`` and ``Normalize`` on a Pillow image only by Pillow's rounding to
    8 bits after each pass of each resize: by at most 1.5 of 255 levels with one resize, 3 with two. Mean and deviation
    are CLIP's, or DINOv3's ``IMAGENET_MEAN``. ``v2`` resizes once; ``v1`` resizes to 512 pixels first, as OmniAID's
    first weights expect.
    """
    if preprocess == "v1":
        images = resize(images, FIRST_SIZE, mode="bilinear")
    wanted = NetworkInput((size, size), mean, std, "bilinear", keep_aspect=False, antialias=antialias)
    return to_network_input(images, wanted)
