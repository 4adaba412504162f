"""Images as tensors: 8-bit conversion, antialiased resizing and the JPEG round trip.

Everywhere in this package an image is a floating tensor [3, H, W] in [0, 1]. An image with NaN is one that failed;
NaN passes through every function here but the 8-bit ones, so that a detector returns NaN for it.
"""

import io
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


def to_uint8(images: Float[Tensor, "*batch 3 height width"]) -> UInt8[Tensor, "*batch 3 height width"]:
    """Round images in [0, 1] to 8 bits, round(255 x), clamped to 0..255; NaN, which they lack, becomes black."""
    return images.float().nan_to_num(nan=0.0).mul_(255).round_().clamp_(0, 255).to(torch.uint8)


def from_uint8(images: UInt8[Tensor, "*batch 3 height width"]) -> Float[Tensor, "*batch 3 height width"]:
    """Read 8-bit images as float32 in [0, 1]; the inverse of ``to_uint8`` on its values."""
    return images.float().div_(255)


def resize(
    images: Float[Tensor, "batch 3 height width"],
    size: int | tuple[int, int],
    *,
    mode: Literal["bilinear", "bicubic"] = "bicubic",
    antialias: bool = True,
) -> Float[Tensor, "batch 3 new_height new_width"]:
    """Resize images with Pillow's antialiased kernels, without its rounding; overshoot is cut to [0, 1].

    The aspect ratio is not kept; one number makes a square. Without ``antialias`` shrinking does not average over all
    pixels, as OpenCV does. Differentiable.
    """
    size = (size, size) if isinstance(size, int) else size
    return F.interpolate(images, size=size, mode=mode, antialias=antialias, align_corners=False).clamp(0, 1)


def center_square(images: Float[Tensor, "batch 3 height width"], size: int) -> Float[Tensor, "batch 3 size size"]:
    """Cut out the largest centred square and resize it, antialiased."""
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(images[..., top : top + side, left : left + side], size, mode="bicubic")


@torch.no_grad()
def jpeg_round_trip(
    images: Float[Tensor, "batch 3 height width"], quality: int
) -> Float[Tensor, "batch 3 height width"]:
    """Write each image as a JPEG file in memory and read it back, with 4:2:0 chroma as cameras and web sites do.

    The quality is 1 (worst) to 100 (best). Images with NaN become NaN throughout. Not differentiable; the codec runs on
    the CPU.

    Raises:
        ValueError: If ``quality`` is outside 1..100.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be 1 to 100, got {quality}.")
    pixels = to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()
    decoded = torch.empty(pixels.shape, dtype=torch.uint8)
    for i, image in enumerate(pixels):
        file = io.BytesIO()
        Image.fromarray(image).save(file, format="JPEG", quality=quality, subsampling="4:2:0")
        decoded[i] = torch.from_numpy(np.array(Image.open(file, formats=("JPEG",))))
    drawn = images.isfinite().flatten(1).all(dim=1).view(-1, 1, 1, 1)
    return torch.where(drawn, from_uint8(decoded.permute(0, 3, 1, 2)).to(images), torch.nan)
