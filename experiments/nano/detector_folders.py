"""Folders of images to train a nano detector on: crops of photographs, and samples of the nano diffusion model.

    python -m experiments.nano.detector_folders --output FOLDER

writes ``train/real``, ``train/generated``, ``validation/real`` and ``validation/generated`` as PNG files. Real: crops,
as they are and after a round trip through the VAE. Generated: samples of plain prompts, and AI-looking crops. Held-out
samples are of prompts that training never sees; of held-out crops see ``photographs.real_crop``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from experiments.nano.detectors import Pictures, make_pictures, picture_arguments
from realgen.data.detector_augment import DetectorAugment
from realgen.data.image_folders import ImageFolders

SEED = 7
"""Of crops and samples, unlike those of the shipped detectors."""
CROPS, SAMPLES, HELD_OUT_CROPS, HELD_OUT_SAMPLES = 20, 400, 8, 160
"""Per subject, and of the nano diffusion model, to train and to validate on."""
AI_EVERY = 4
"""Of the AI-looking crops, every so many are kept: generated images are mostly samples."""


def write_folders(
    output: Path,
    *,
    pretrained: Path,
    crops: int = CROPS,
    samples: int = SAMPLES,
    held_out_crops: int = HELD_OUT_CROPS,
    held_out_samples: int = HELD_OUT_SAMPLES,
) -> Path:
    """Make the images and write them.

    Args:
        output: Folder to make; it appears when all is written.
        pretrained: The nano diffusion model.
        crops: Per subject, to train on.
        samples: To train on.
        held_out_crops: Per subject, to validate on.
        held_out_samples: To validate on.

    Returns:
        ``output``.

    Raises:
        ValueError: If ``output`` exists.
    """
    if output.exists():
        raise ValueError(f"output must not exist yet, got {str(output)!r}.")
    partial = output.with_name(f"{output.name}.{os.getpid()}.partial")
    for side, per_subject, number in (("train", crops, samples), ("validation", held_out_crops, held_out_samples)):
        pictures = make_pictures(
            pretrained, per_subject=per_subject, num_samples=number, seed=SEED, held_out=side == "validation"
        )
        _write(pictures, partial / side)
    try:
        partial.rename(output)
    except OSError:  # another process was faster
        shutil.rmtree(partial)
    return output


def _write(pictures: Pictures, folder: Path) -> None:
    kinds: dict[str, UInt8[Tensor, "images 3 size size"]] = {
        "real/crop": pictures.real,
        "real/decoded": pictures.decoded,
        "generated/sample": pictures.samples,
        "generated/ai": pictures.ai[::AI_EVERY],
    }
    for name, images in kinds.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{name}-{number:05d}.png")


class NanoFolders(ImageFolders):
    """``ImageFolders`` that makes its own images with the nano diffusion model when they are not there yet.

    They lie in a folder named after what they were made with, so that another model gets other images.

    Args:
        directory: Where the folder is made.
        pretrained: The nano diffusion model.
        crops: Crops of photographs per subject to train on.
        samples: Samples of the model to train on.
        held_out_crops: Crops per subject to validate on.
        held_out_samples: Samples to validate on.
        image_size: Side in pixels that the detector gets.
        batch_size: Training images of one rank and step, even; half of them are real.
        validation_batch_size: Validation images of one rank and step.
        augment: How training images are changed.
        hard_negatives: Share of the generated half of a training batch that are spoilt images, see ``ImageFolders``.
        num_workers: Processes that read images beside the training.
        seed: Chooses order and augmentation, not the images.

    Raises:
        ValueError: If a number is out of its range, or ``pretrained`` is no folder.
    """

    def __init__(
        self,
        *,
        directory: str = "runs/nano_images",
        pretrained: str = "data/nano/sd3",
        crops: int = CROPS,
        samples: int = SAMPLES,
        held_out_crops: int = HELD_OUT_CROPS,
        held_out_samples: int = HELD_OUT_SAMPLES,
        image_size: int = 64,
        batch_size: int = 64,
        validation_batch_size: int = 64,
        augment: DetectorAugment | None = None,
        hard_negatives: float = 0.0,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        if not Path(pretrained).is_dir():
            raise ValueError(f"pretrained must be a folder, {pretrained!r} is none.")
        self._numbers = {
            "crops": crops,
            "samples": samples,
            "held_out_crops": held_out_crops,
            "held_out_samples": held_out_samples,
        }
        for name, number in self._numbers.items():
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}.")
        self._pretrained = Path(pretrained)
        self.folder = Path(directory, _digest(self._pretrained, self._numbers))
        """Where the images are."""
        super().__init__(
            str(self.folder / "train/real"),
            str(self.folder / "train/generated"),
            validation_real=str(self.folder / "validation/real"),
            validation_generated=str(self.folder / "validation/generated"),
            image_size=image_size,
            batch_size=batch_size,
            validation_batch_size=validation_batch_size,
            augment=augment,
            hard_negatives=hard_negatives,
            num_workers=num_workers,
            seed=seed,
        )

    def check_folders(self) -> None:
        """Nothing: ``prepare_data`` makes the folders."""

    def read(self) -> None:
        """Nothing before ``prepare_data`` has made the folders; then as ``ImageFolders`` does."""
        if self.folder.exists():
            super().read()

    def prepare_data(self) -> None:
        """Make the images, once; Lightning calls this on one rank of a machine."""
        if not self.folder.exists():
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            write_folders(self.folder, pretrained=self._pretrained, **self._numbers)


def _digest(pretrained: Path, numbers: dict[str, int]) -> str:
    content = hashlib.sha256(f"{SEED} {sorted(numbers.items())}".encode())
    for path in sorted(pretrained.rglob("*.safetensors")):
        content.update(path.read_bytes())
    return content.hexdigest()[:12]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    numbers = {"held_out_crops": HELD_OUT_CROPS, "held_out_samples": HELD_OUT_SAMPLES}
    parents = [picture_arguments(crops=CROPS, samples=SAMPLES, **numbers)]
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter, parents=parents)
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    print(write_folders(**vars(parser.parse_args(arguments))))


if __name__ == "__main__":
    main()
