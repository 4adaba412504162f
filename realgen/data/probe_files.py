"""The files that a linear probe is fitted, calibrated and tested on: how the two classes' differ, and their images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.data.image_batches import CLASSES
from realgen.data.image_files import ImageFile, check_disjoint, find_images, group_names, read_image, split_files
from realgen.functional.images import jpeg_round_trip
from realgen.functional.network_input import NetworkInput, to_network_input

SPLITS = ("fit", "calibrate", "test")
"""Into which the images of each class are divided."""
MIN_IMAGES = 4
"""Of each class in each split; fewer say nothing."""
SHARE_WARNED, QUALITY_WARNED = 0.1, 5
"""Differences between the classes from which on the user is warned: of the share of JPEG files, of their quality."""


class Divided(NamedTuple):
    """All files, with class and split."""

    files: list[ImageFile]
    generated: list[bool]
    splits: list[str]


def divide(real: Path, generated: Path, held_out: float, reconstructed: Path | None = None) -> Divided:
    """List all images with their split, by name, copies together; of those held out half calibrate, half test.

    ``reconstructed`` are images that count as generated too, under the names of photographs, whose split they share.

    Raises:
        ValueError: If the classes share an image, or one has too few in a split.
    """
    divided = Divided([], [], [])
    arguments = {f"--{name}": folder for name, folder in zip(CLASSES, (real, generated), strict=True)}
    found = {argument: find_images(str(folder), argument=argument) for argument, folder in arguments.items()}
    check_disjoint(found)
    if reconstructed is not None:
        found["--generated"] += find_images(str(reconstructed), argument="--vae")
    groups = group_names([file for files in found.values() for file in files])
    for argument, files in found.items():
        fit, held = split_files(files, held_out, groups=groups)
        calibrate, test = split_files(held, held_out / 2, groups=groups)
        for split, chosen in zip(SPLITS, (fit, calibrate, test), strict=True):
            if len(chosen) < MIN_IMAGES:
                raise ValueError(
                    f"{argument} {arguments[argument]} has {len(files)} images, of which {len(chosen)} to {split} "
                    f"with; needed are {MIN_IMAGES}. Give more images, or another --held_out than {held_out}."
                )
            divided.files.extend(chosen)
            divided.generated.extend([argument == "--generated"] * len(chosen))
            divided.splits.extend([split] * len(chosen))
    return divided


def compare_formats(divided: Divided, qualities: Mapping[Path, int], *, match_jpeg: bool) -> str:
    """Say what the files of both classes are, and warn where that alone would tell them apart.

    ``qualities`` are those of JPEG files; with ``match_jpeg`` the others will be saved alike first.
    """
    lines, shares, typical = [], [], []
    for label, name in enumerate(CLASSES):
        pairs = zip(divided.files, divided.generated, strict=True)
        paths = [file.path for file, is_generated in pairs if is_generated == bool(label)]
        known = [qualities[path] for path in paths if path in qualities]
        shares.append(len(known) / len(paths))
        typical += [median(known)] if known else []
        quality = f", median quality {typical[-1]:g}" if known else ""
        lines.append(f"{name}: {len(paths)} images, {shares[-1]:.0%} of them JPEG{quality}")
    if abs(shares[0] - shares[1]) > SHARE_WARNED and not match_jpeg:
        lines.append(
            "warning: the file formats alone tell the classes apart, and the probe may learn that; see --match_jpeg"
        )
    if len(typical) == 2 and abs(typical[0] - typical[1]) > QUALITY_WARNED:
        lines.append("warning: the classes' JPEG files differ in quality, which --match_jpeg does not change")
    return "\n".join(lines)


Prepared = tuple[list[int], Float[Tensor, "rows 3 height width"] | None, list[str]]
"""Rows that could be read, their images, None if there is none, and files that could not be read, with the reason."""


def prepare(wanted: NetworkInput, qualities: Mapping[Path, int], files: Sequence[tuple[int, Path]]) -> Prepared:
    """Read files, each behind its row; one of ``qualities``, 1 to 100, is saved as such a JPEG and read again first."""
    rows, pixels, broken = list[int](), list[Tensor](), list[str]()
    for row, path in files:
        try:
            images = read_image(path)[None]
        except ValueError as error:
            broken.append(f"{path}: {error}")
            continue
        images = jpeg_round_trip(images, qualities[path]) if path in qualities else images
        pixels.append(to_network_input(images, wanted))
        rows.append(row)
    return rows, torch.cat(pixels) if pixels else None, broken
