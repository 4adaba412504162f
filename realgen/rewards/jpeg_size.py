"""JPEG size: the smallest reward, and the one to begin your own with."""

import io

import torch
from jaxtyping import Float
from torchvision.transforms.functional import to_pil_image

from realgen.functional.images import to_uint8
from realgen.rewards.base import Reward
from realgen.types import Samples


class JpegSize(Reward):
    """Kilobytes of each image as a JPEG file: detail pays, and so does noise (DDPO, arXiv:2305.13301)."""

    def score(self, samples: Samples) -> Float[torch.Tensor, " rows"]:
        """Return the size per row [B]; NaN for an image with NaN, which masks the sample."""
        sizes = [kilobytes(image) if image.isfinite().all() else torch.nan for image in samples.images]
        return torch.tensor(sizes, device=samples.images.device)


def kilobytes(image: Float[torch.Tensor, "3 height width"]) -> float:
    """Return the size of one image [3, H, W] in [0, 1] as a JPEG file of quality 95.

    >>> kilobytes(torch.zeros(3, 64, 64)) < 1 < kilobytes(torch.rand(3, 64, 64))
    True
    """
    to_pil_image(to_uint8(image).cpu()).save(file := io.BytesIO(), format="JPEG", quality=95)
    return file.tell() / 1000
