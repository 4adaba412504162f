"""What a frozen network wants done to its images: resized, cropped and normalised, on tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from realgen.functional.images import resize


@dataclass(frozen=True)
class NetworkInput:
    """The pictures that a network was trained to see, as its authors published it."""

    size: tuple[int, int]
    """Height and width in pixels that the network sees."""
    mean: tuple[float, float, float]
    """Of red, green and blue; subtracted from images in [0, 1]."""
    std: tuple[float, float, float]
    """Of red, green and blue; divides what is left."""
    mode: Literal["bilinear", "bicubic"] = "bicubic"
    """Interpolation kernel."""
    keep_aspect: bool = True
    """Resize so that the image just covers ``resize_to``; False squeezes it to exactly that."""
    resize_to: tuple[int, int] | None = None
    """Height and width before the crop; None resizes to ``size``, so that a square image is not cropped."""


def to_network_input(
    images: Float[Tensor, "batch 3 height width"], wanted: NetworkInput
) -> Float[Tensor, "batch 3 new_height new_width"]:
    """Resize, crop in the middle and normalise images as a network wants them.

    The numbers are those of torchvision's ``Resize``, ``CenterCrop`` and ``Normalize`` on files, without the rounding
    to 8 bits after the resize.

    Args:
        images: [B, 3, H, W] in [0, 1].
        wanted: By the network.

    Returns:
        [B, 3, *wanted.size].

    Example:
        >>> import torch
        >>> small = NetworkInput(size=(2, 2), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        >>> to_network_input(torch.zeros(1, 3, 4, 6), small)[0, 0]
        tensor([[-1., -1.],
                [-1., -1.]])
    """
    height, width = wanted.size
    old = (images.shape[2], images.shape[3])
    new = wanted.resize_to or wanted.size
    if wanted.keep_aspect:
        new = covering(old, new)
    if new != old:
        images = resize(images, new, mode=wanted.mode)
    top, left = round((new[0] - height) / 2), round((new[1] - width) / 2)
    images = images[:, :, top : top + height, left : left + width]
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (wanted.mean, wanted.std))
    return (images - mean) / std


def covering(old: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int]:
    """The smallest height and width of an image's own aspect that cover a frame.

    Args:
        old: Height and width of the image.
        frame: Height and width to be covered.

    Returns:
        Height and width; one of them is the frame's, the other is rounded down as torchvision does.

    Example:
        >>> covering((40, 60), (20, 20))
        (20, 30)
    """
    (old_height, old_width), (height, width) = old, frame
    if height * old_width <= width * old_height:  # the width decides the scale
        return old_height * width // old_width, width
    return height, old_width * height // old_height


def open_clip_input(preprocess: Mapping[str, Any]) -> NetworkInput:
    """Read an open_clip model's ``preprocess_cfg``.

    Args:
        preprocess: With ``size``, ``mean``, ``std``, ``interpolation`` and ``resize_mode``.

    Returns:
        What its evaluation transform makes of files.

    Raises:
        ValueError: If ``resize_mode`` is another than ``shortest`` (shorter side to size, centre crop) or ``squash``
            (both sides to size), or ``interpolation`` is neither bicubic nor bilinear.

    Example:
        >>> half = {"size": 224, "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic"}
        >>> open_clip_input({**half, "resize_mode": "shortest"}).size
        (224, 224)
    """
    size, interpolation = preprocess["size"], preprocess["interpolation"]
    if preprocess["resize_mode"] not in ("shortest", "squash"):
        raise ValueError(f"resize_mode must be 'shortest' or 'squash', got {preprocess['resize_mode']!r}.")
    return NetworkInput(
        size=(size, size) if isinstance(size, int) else (size[0], size[1]),
        mean=_three(preprocess["mean"]),
        std=_three(preprocess["std"]),
        mode=_mode("bicubic" if interpolation == "random" else interpolation),  # random is for training
        keep_aspect=preprocess["resize_mode"] == "shortest",
    )


def timm_input(config: Mapping[str, Any]) -> NetworkInput:
    """Read a timm model's data config, what ``timm.data.resolve_model_data_config`` returns.

    Args:
        config: With ``input_size``, ``mean``, ``std``, ``interpolation``, ``crop_pct`` and ``crop_mode``.

    Returns:
        What its evaluation transform makes of files.

    Raises:
        ValueError: If ``crop_mode`` is another than ``center`` or ``squash``, or ``interpolation`` is neither bicubic
            nor bilinear.

    Example:
        >>> config = {"input_size": (3, 224, 224), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 0.875}
        >>> timm_input({**config, "interpolation": "bicubic", "crop_mode": "center"}).resize_to
        (256, 256)
    """
    if config["crop_mode"] not in ("center", "squash"):
        raise ValueError(f"crop_mode must be 'center' or 'squash', got {config['crop_mode']!r}.")
    _, height, width = config["input_size"]
    return NetworkInput(
        size=(height, width),
        mean=_three(config["mean"]),
        std=_three(config["std"]),
        mode=_mode(config["interpolation"]),
        keep_aspect=config["crop_mode"] == "center",
        resize_to=(math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"])),
    )


def _mode(interpolation: str) -> Literal["bilinear", "bicubic"]:
    if interpolation == "bilinear":
        return "bilinear"
    if interpolation == "bicubic":
        return "bicubic"
    raise ValueError(f"interpolation must be 'bicubic' or 'bilinear', got {interpolation!r}.")


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)
