"""Distances of power spectra to real images: too smooth, too noisy, gridded."""

from jaxtyping import Float
from torch import Tensor

from realgen.checks import check_at_least
from realgen.functional.spectrum import grid_excess, radial_spectrum
from realgen.metrics.base import RealComparison


class SpectrumDistance(RealComparison):
    """Distance in dB between the mean radial log power spectra of generated and real images.

    Waxy images lack power in the high rings, noisy ones have too much, and each dB counts the same. A grid, whose
    power sits on few frequencies, hardly moves a ring: see ``GridEnergy``. After Durall et al. (arXiv:2003.01826).
    The real images must have the wanted sharpness, hence the pixel size of the generated ones.

    Args:
        num_rings: Rings of spatial frequency up to Nyquist; images need at least twice as many pixels a side.
    """

    higher_is_better: bool = False

    def __init__(self, num_rings: int = 32) -> None:
        super().__init__()
        check_at_least(1, num_rings=num_rings)
        self.num_rings = num_rings

    def describe(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch rings"]:
        """Return the radial log spectrum in dB."""
        return radial_spectrum(images, self.num_rings)

    def compare(
        self, generated: Float[Tensor, "generated rings"], real: Float[Tensor, "real rings"]
    ) -> Float[Tensor, ""]:
        """Return the root mean square over the rings of the difference of the means."""
        return (generated.mean(dim=0) - real.mean(dim=0)).square().mean().sqrt()


class GridEnergy(RealComparison):
    """By how many dB a grid of a given period stands out more, or less, in generated images than in real ones.

    0 = as in real images. It sees seams between patches and the checkerboard of upsampling, wherever they lie, but only
    at periods that divide ``period``. Standing out less is a fault too: upsampling by repetition empties the lattice.

    Args:
        period: Pixels after which the grid repeats; images need at least three periods a side.
    """

    higher_is_better: bool = False

    def __init__(self, period: int = 8) -> None:
        super().__init__()
        check_at_least(2, " pixels", period=period)
        self.period = period

    def describe(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, " batch"]:
        """Return the excess of the grid's frequencies in dB."""
        return grid_excess(images, self.period)

    def compare(self, generated: Float[Tensor, " generated"], real: Float[Tensor, " real"]) -> Float[Tensor, ""]:
        """Return the absolute difference of the mean excesses."""
        return (generated.mean() - real.mean()).abs()
