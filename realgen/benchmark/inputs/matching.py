"""File formats made alike before anything is scored.

Real images come as JPEG files of all shapes, generated images often as square lossless ones. A detector that has
learned the traces of JPEG and of resizing would read the format instead of the realism.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from jaxtyping import Float
from torch import Tensor

from realgen.checks import check_at_least
from realgen.data.image_files import read_image
from realgen.data.jpeg_files import jpeg_quality
from realgen.functional.images import center_square, jpeg_round_trip
from realgen.image_decoding import open_image


@dataclass(frozen=True)
class FormatMatching:
    """Gives real images and generated images one shape, one size and one JPEG quality, in this order.

    ValueError if a number is out of its range.

    Args:
        size: Side in pixels of the square that the largest centred square of every image is resized to. No image may be
            smaller: enlarging would leave traces of its own.
        quality: JPEG quality, 1 to 100, at which every image is saved and read again; None does without. It only hides
            what is saved at a better quality: choose it no better than that of the worst files.
    """

    size: int = 512
    quality: int | None = 75

    def __post_init__(self) -> None:
        check_at_least(1, size=self.size)
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be 1 to 100, or null, got {self.quality}.")

    def __call__(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 size size"]:
        """Make images in [0, 1] alike."""
        images = center_square(images, self.size)
        return images if self.quality is None else jpeg_round_trip(images, self.quality)


def read_matched(path: Path, matching: FormatMatching | None) -> Float[Tensor, "3 height width"]:
    """Read an image, made alike unless ``matching`` is None; ValueError if the file cannot be decoded."""
    try:
        image = read_image(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}.") from error
    return image if matching is None else matching(image[None])[0]


@dataclass(frozen=True)
class FileFormats:
    """What the files of one set of images are."""

    number: int
    jpeg_share: float
    jpeg_quality: float | None
    """Median of the JPEG files; None if there are none."""
    shorter_side: int
    """Of the smallest image, in pixels."""
    smallest: str
    """Its file."""
    square_share: float

    def __str__(self) -> str:
        """Return one line for the user to read."""
        quality = "" if self.jpeg_quality is None else f" (median quality {self.jpeg_quality:g})"
        return (
            f"{self.number} images, {self.jpeg_share:.0%} JPEG{quality}, {self.square_share:.0%} square, shorter side "
            f"from {self.shorter_side} pixels"
        )


def survey(files: Sequence[Path], *, argument: str, advance: Callable[[], object] = lambda: None) -> FileFormats:
    """Decode every file coarsely, ``advance`` after each, and say what they are; ValueError if one is broken."""
    broken: list[str] = []
    sizes: list[tuple[int, int]] = []
    qualities: list[int] = []
    for path in files:
        try:
            with open_image(path) as image:
                sizes.append(image.size)
                image.draft("RGB", (1, 1))  # a JPEG file is decoded at an eighth of its size, and read to its end
                image.load()
        except ValueError as error:
            broken.append(f"{path} ({error})")
        else:
            quality = jpeg_quality(path)
            qualities += [] if quality is None else [quality]
        advance()
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise ValueError(f"{argument}: cannot decode {broken[0]}{more}.")
    sides = [min(size) for size in sizes]
    return FileFormats(
        number=len(files),
        jpeg_share=len(qualities) / len(files),
        jpeg_quality=float(median(qualities)) if qualities else None,
        shorter_side=min(sides),
        smallest=str(files[sides.index(min(sides))]),
        square_share=sum(width == height for width, height in sizes) / len(files),
    )


def check_matching(matching: FormatMatching | None, formats: dict[str, FileFormats]) -> list[str]:
    """Return warnings of what remains of the files' difference; ValueError if an image is too small."""
    if matching is None:
        looks = {(round(found.jpeg_share), round(found.square_share)) for found in formats.values()}
        return ["the sets differ in file format or shape, and detectors may read that: see matching"] * (len(looks) > 1)
    for found in formats.values():
        if found.shorter_side < matching.size:
            raise ValueError(
                f"matching.size={matching.size} would enlarge {found.smallest}, whose shorter side is "
                f"{found.shorter_side}. Choose a size no larger: --matching.size={found.shorter_side}"
            )
    if matching.quality is None:
        return []
    return [
        f"{name}: its JPEG files have quality {found.jpeg_quality:g}, worse than matching.quality={matching.quality}; "
        "their traces remain"
        for name, found in formats.items()
        if found.jpeg_quality is not None and found.jpeg_quality < matching.quality
    ]
