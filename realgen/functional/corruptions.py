"""Corruptions of images [rows, 3, H, W] in [0, 1]: what files go through, and ways to cheat a detector.

``HARMLESS`` ones and ``COLOURS`` keep a real image real and a generated one generated; a detector is measured by how
much worse it becomes. Results of ``CHEATS`` must count as generated, whatever the image: a policy that is rewarded by
the detector finds them.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import functional as tv
from torchvision.transforms.functional import gaussian_blur

from realgen.functional.images import jpeg_round_trip, resize

Images = Float[Tensor, "rows 3 height width"]
Corruption = Callable[[Images, torch.Generator], Images]
"""Images and a generator on the CPU in, images of the same size out."""


def uniform(images: Tensor, low: float, high: float, generator: torch.Generator) -> Float[Tensor, "rows 1 1 1"]:
    """Draw one number per image."""
    return torch.empty(len(images), 1, 1, 1).uniform_(low, high, generator=generator).to(images.device)


def blur(images: Images, generator: torch.Generator) -> Images:
    """Blur with a Gaussian of 1.5 to 2.5 pixels."""
    sigma = float(torch.empty(1).uniform_(1.5, 2.5, generator=generator))
    return gaussian_blur(images, [11, 11], [sigma, sigma])


def noise(images: Images, generator: torch.Generator) -> Images:
    """Add white noise with a deviation of 0.1 to 0.2."""
    amount = uniform(images, 0.1, 0.2, generator)
    return (images + amount * torch.randn(images.shape, generator=generator).to(images.device)).clamp(0, 1)


def flat(images: Images, generator: torch.Generator) -> Images:
    """Reduce the contrast to 0 to 0.25, which leaves little more than the mean colour."""
    colour = images.mean((2, 3), keepdim=True)
    return colour + (images - colour) * uniform(images, 0.0, 0.25, generator)


def grid(images: Images, generator: torch.Generator) -> Images:
    """Add a grid of 4 or 8 pixels, 0.06 to 0.2 bright."""
    period = 4 if torch.rand((), generator=generator) < 0.5 else 8
    line = torch.zeros(max(images.shape[-2:]), device=images.device)
    line[::period] = 1.0
    lines = torch.maximum(line[None, : images.shape[-1]], line[: images.shape[-2], None])
    return (images + uniform(images, 0.06, 0.2, generator) * (lines - lines.mean())).clamp(0, 1)


def over_contrast(images: Images, generator: torch.Generator) -> Images:
    """Multiply contrast and saturation by 2 to 4."""
    middle = images.mean((1, 2, 3), keepdim=True)
    return (middle + (images - middle) * uniform(images, 2.0, 4.0, generator)).clamp(0, 1)


def blots(images: Images, generator: torch.Generator) -> Images:
    """Replace the image by soft blots of random colour."""
    coarse = torch.rand(len(images), 3, 6, 6, generator=generator).to(images.device)
    return F.interpolate(coarse, size=images.shape[-2:], mode="bicubic").mul(1.6).sub(0.3).clamp(0, 1)


def soft(images: Images, generator: torch.Generator) -> Images:
    """Put the image slightly out of focus: a Gaussian blur with a deviation of 1 % of the shorter side."""
    sigma = 0.01 * min(images.shape[-2:])
    side = 2 * max(round(3 * sigma), 1) + 1
    return gaussian_blur(images, [side, side], [sigma, sigma])


def half_size(images: Images, generator: torch.Generator) -> Images:
    """Shrink to half the size and enlarge again."""
    height, width = images.shape[-2:]
    return resize(resize(images, (max(height // 2, 1), max(width // 2, 1))), (height, width))


def crop(images: Images, generator: torch.Generator) -> Images:
    """Enlarge the middle, 80 % of each side."""
    height, width = images.shape[-2:]
    top, left = height // 10, width // 10
    return resize(images[..., top : height - top, left : width - left], (height, width))


def squeeze(images: Images, generator: torch.Generator) -> Images:
    """Stretch the middle three quarters of the height, as when a 4:3 image is made square."""
    height, width = images.shape[-2:]
    top = height // 8
    return resize(images[..., top : height - top, :], (height, width))


def grain(images: Images, generator: torch.Generator) -> Images:
    """Add sensor noise of 2 %."""
    return (images + 0.02 * torch.randn(images.shape, generator=generator).to(images.device)).clamp(0, 1)


def _jpeg(quality: int) -> Corruption:
    return lambda images, generator: jpeg_round_trip(images, quality)


HARMLESS: dict[str, Corruption] = {
    "jpeg_90": _jpeg(90),
    "jpeg_75": _jpeg(75),
    "jpeg_50": _jpeg(50),
    "half_size": half_size,
    "soft": soft,
    "crop": crop,
    "squeeze": squeeze,
    "grain": grain,
}
"""Changes of files in everyday use; the label stays."""

COLOURS: dict[str, Corruption] = {
    "grey": lambda images, _: tv.rgb_to_grayscale(images, 3),
    "saturated": lambda images, _: tv.adjust_saturation(images, 1.6),
    "pale": lambda images, _: tv.adjust_contrast(images, 0.6),
    "dark": lambda images, _: tv.adjust_brightness(images, 0.6),
}
"""Colour and contrast as photographs have them too; the label stays. Strengths are ours."""

CHEATS: dict[str, Corruption] = {
    "blur": blur,
    "noise": noise,
    "flat": flat,
    "grid": grid,
    "over_contrast": over_contrast,
    "blots": blots,
}
"""Changes after which any image must count as generated."""
