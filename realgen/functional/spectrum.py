"""Power spectra of images: the radial profile, which separates waxy from sharp, and the lattice of a grid."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from realgen.functional.color import luma

POWER_FLOOR = 1 / (12 * 255**2)
"""Power of 8-bit rounding noise at every frequency. Added before each logarithm, as less power carries no
information."""


def power_spectrum(
    gray: Float[Tensor, "batch height width"], *, hann: bool = False
) -> Float[Tensor, "batch height width"]:
    """Compute the periodogram |F(w (x - mean))|^2 / sum(w^2) (Welch 1967), s^2 for white noise of variance s^2.

    [B, H, W] in the squared unit of ``gray``, zero frequency first; the mean is removed. ``hann`` fades the borders out
    with a periodic Hann window, so that opposite borders that do not match leave no bright cross. Without it w = 1, and
    a pattern whose period divides the side falls on single frequencies.
    """
    height, width = gray.shape[1:]
    window = gray.new_ones(height, width)
    if hann:
        window = torch.outer(
            torch.hann_window(height, dtype=gray.dtype, device=gray.device),
            torch.hann_window(width, dtype=gray.dtype, device=gray.device),
        )
    mean = (window * gray).sum(dim=(1, 2), keepdim=True) / window.sum()
    return torch.fft.fft2(window * (gray - mean)).abs().square() / window.square().sum()


def radial_spectrum(images: Float[Tensor, "batch 3 height width"], num_rings: int) -> Float[Tensor, "batch rings"]:
    """Compute the log power of the luma in rings of equal spatial frequency, 10 log10(mean power of the ring + floor).

    The azimuthal average of Durall et al. (arXiv:2003.01826, equation 4), with two deviations: a Hann window, because
    images do not wrap around, and rings in cycles per pixel, so that oblong images have the same ones.
    Frequencies beyond the last ring (the corners) are left out.

    Of images in [0, 1]; ring k = 1..R is centred on k / (2 R) cycles per pixel, the last one on the Nyquist frequency.
    [B, R] in dB.

    Raises:
        ValueError: If a side is shorter than 2 R pixels, for then a ring is empty.
    """
    height, width = images.shape[-2:]
    if min(height, width) < 2 * num_rings:
        raise ValueError(
            f"num_rings={num_rings} needs images of at least {2 * num_rings} pixels, got {height}x{width}."
        )
    power = power_spectrum(luma(images), hann=True).flatten(1)
    vertical = torch.fft.fftfreq(height, dtype=torch.float64)
    horizontal = torch.fft.fftfreq(width, dtype=torch.float64)
    ring = (2 * num_rings * torch.hypot(vertical[:, None], horizontal)).round().long().flatten().to(power.device)
    rings = int(ring.max()) + 1
    total = power.new_zeros(len(power), rings).index_add_(1, ring, power)
    mean = total / ring.bincount(minlength=rings).clamp(min=1)
    return 10 * torch.log10(mean[:, 1 : num_rings + 1] + POWER_FLOOR)


def grid_excess(images: Float[Tensor, "batch 3 height width"], period: int) -> Float[Tensor, " batch"]:
    """Return how far a grid's frequencies stand out of their surroundings.

    A pattern that repeats every ``period`` pixels has all its power on the lattice (i H / period, j W / period).
    The excess is the mean over the lattice, zero frequency left out, of

        10 log10(power + floor) - the mean of the same over the eight neighbouring frequencies.

    White noise gives 0. Real images give a little more, because opposite borders do not match, and JPEG adds to the
    period 8: compare with real images of the same kind.

    Images in [0, 1] are cut to multiples of ``period``, which is at least 2: the patch size of a transformer times the
    factor of its VAE, or a divisor or multiple of it. [B] in dB.

    Raises:
        ValueError: If a side is shorter than three periods, for then lattice points are each other's neighbours.
    """
    height, width = (side // period * period for side in images.shape[-2:])
    if min(height, width) < 3 * period:
        raise ValueError(
            f"period={period} needs images of at least {3 * period} pixels, got {list(images.shape[-2:])}."
        )
    decibels = 10 * torch.log10(power_spectrum(luma(images[..., :height, :width])) + POWER_FLOOR)
    block = F.avg_pool2d(F.pad(decibels[:, None], (1, 1, 1, 1), mode="circular"), 3, stride=1)[:, 0]
    excess = (9 / 8) * (decibels - block)  # the block of nine holds the centre itself
    lattice = excess[:, :: height // period, :: width // period].flatten(1)
    return lattice[:, 1:].mean(dim=1)
