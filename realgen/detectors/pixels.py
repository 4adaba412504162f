"""Images as a vision tower wants them: resized and normalised, on tensors, on whichever device they are."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from realgen.functional.images import resize

Preprocess = Literal["v1", "v2"]
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
FIRST_SIZE = 512
"""Where ``v1`` stops on the way."""


def prepare(
    images: Float[Tensor, "batch 3 height width"],
    size: int,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    preprocess: Preprocess = "v2",
    antialias: bool = True,
) -> Float[Tensor, "batch 3 size size"]:
    """Resize bilinearly to a square (the aspect is not kept) and normalise per channel.

    Differs from torchvision's ``Resize``, ``ToTensor`` and ``Normalize`` on a Pillow image only by what Pillow rounds
    away, as it stores 8 bits after each pass of each resize: by at most 1.5 of 255 levels with one resize, 3 with two.

    Args:
        images: [B, 3, H, W] in [0, 1].
        size: Height and width of the result in pixels.
        mean: Taken out, per channel, on the scale of [0, 1].
        std: Divided by, per channel.
        preprocess: ``v2`` resizes once; ``v1`` resizes to 512 pixels first, as OmniAID's first weights expect.
        antialias: Whether to average over what a smaller picture leaves out, as Pillow does and OpenCV does not.

    Returns:
        [B, 3, size, size], normalised.
    """
    for side in (FIRST_SIZE, size) if preprocess == "v1" else (size,):
        if antialias:
            images = resize(images, side, mode="bilinear")
        else:
            images = F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
    centre, scale = (images.new_tensor(values).view(3, 1, 1) for values in (mean, std))
    return (images - centre) / scale


def clip_pixels(
    images: Float[Tensor, "batch 3 height width"], size: int, *, preprocess: Preprocess = "v2", antialias: bool = True
) -> Float[Tensor, "batch 3 size size"]:
    """``prepare`` with CLIP's mean and standard deviation.

    Args:
        images: [B, 3, H, W] in [0, 1].
        size: The tower's height and width in pixels.
        preprocess: See ``prepare``.
        antialias: See ``prepare``.

    Returns:
        [B, 3, size, size], normalised.

    Example:
        >>> import torch
        >>> clip_pixels(torch.zeros(1, 3, 8, 8), 4)[0, :, 0, 0]
        tensor([-1.7923, -1.7521, -1.4802])
    """
    return prepare(images, size, mean=CLIP_MEAN, std=CLIP_STD, preprocess=preprocess, antialias=antialias)


def imagenet_pixels(
    images: Float[Tensor, "batch 3 height width"], size: int, *, preprocess: Preprocess = "v2"
) -> Float[Tensor, "batch 3 size size"]:
    """``prepare`` with ImageNet's mean and standard deviation, as DINOv3 was trained.

    Args:
        images: [B, 3, H, W] in [0, 1].
        size: The tower's height and width in pixels.
        preprocess: See ``prepare``.

    Returns:
        [B, 3, size, size], normalised.

    Example:
        >>> import torch
        >>> imagenet_pixels(torch.zeros(1, 3, 8, 8), 4)[0, :, 0, 0]
        tensor([-2.1179, -2.0357, -1.8044])
    """
    return prepare(images, size, mean=IMAGENET_MEAN, std=IMAGENET_STD, preprocess=preprocess)
