"""Prompts, and folders of images: found, named after their model, and paired with the prompts by file name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from realgen.data.image_files import SUFFIXES, is_image

PHOTO, GENERATED = "photo", "1_fake"
"""Folders that hold a model's images in its own: of the published layout, MODEL/photo/00000.jpg, and of data sets."""


@dataclass(frozen=True)
class BenchmarkPrompt:
    """One prompt of a benchmark."""

    number: int
    """Its line, from 0."""
    name: str
    """Stem of its real image's file, and of every generated image's."""
    prompt: str
    category: str = ""
    """Empty where the prompts have none."""
    real_image: Path | None = None
    """None where there are no real images."""


@dataclass(frozen=True)
class ImageSet:
    """The images of one model."""

    name: str
    folder: Path
    files: Mapping[str, Path]
    """By stem."""


def images_by_name(folder: Path, *, argument: str) -> dict[str, Path]:
    """List the images of a folder, called ``argument``, by stem; ValueError for none, or two of one stem."""
    try:
        paths = sorted(path for path in folder.iterdir() if is_image(path) and path.is_file())
    except OSError as error:
        raise ValueError(f"{argument} must be a folder of images, {str(folder)!r}: {error.strerror}.") from error
    if not paths:
        raise ValueError(f"{argument} must hold images ({', '.join(SUFFIXES)}), {str(folder)!r} holds none.")
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            raise ValueError(f"{argument}: {folder} has {found[path.stem].name} and {path.name}; one of them must go.")
        found[path.stem] = path
    return found


def model_name(folder: str) -> str:
    """Return what a folder's model is called: its own name, or its parent's where the folder is called ``photo``."""
    path = Path(folder).resolve()
    return path.parent.name if path.name in (PHOTO, GENERATED) else path.name


def find_image_set(name: str, folder: str) -> ImageSet:
    """List the images of a model, in a folder or in its ``photo`` or ``1_fake``; raise as ``images_by_name`` does."""
    path = Path(folder)
    inside = next((path / name for name in (PHOTO, GENERATED) if (path / name).is_dir()), None)
    if inside is not None and not any(is_image(child) for child in path.iterdir()):
        path = inside
    return ImageSet(name, path, images_by_name(path, argument=f"images.{name}"))


def pair(
    prompts: Sequence[BenchmarkPrompt], sets: Sequence[ImageSet], *, allow_missing: bool = False
) -> list[BenchmarkPrompt]:
    """Return the prompts of which all models have an image; ValueError if some miss and not ``allow_missing``."""
    for images in sets:
        missing = [prompt.name for prompt in prompts if prompt.name not in images.files]
        if len(missing) == len(prompts):
            has, wanted = listed(sorted(images.files)), listed(missing)
            raise ValueError(
                f"images.{images.name}: {images.folder} has an image of no prompt. They are paired by name: expected "
                f"{wanted}, got {has}."
            )
        if missing and not allow_missing:
            raise ValueError(
                f"images.{images.name}: {images.folder} has no image of {listed(missing)}. Draw them, or leave "
                "these prompts out for all models: --allow_missing=true"
            )
    kept = [prompt for prompt in prompts if all(prompt.name in images.files for images in sets)]
    if not kept:
        raise ValueError("there is no prompt of which every model has an image.")
    return kept


def listed(names: Sequence[str]) -> str:
    """Return the first names, and how many there are."""
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:3])}, ... ({len(names)} in all)"
