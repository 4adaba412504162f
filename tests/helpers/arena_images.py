"""Prompts, photographs and models' images in plain grey levels, so that the brighter one is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from realgen.benchmark.inputs.image_sets import BenchmarkPrompt, ImageSet

SIZE = 16


def grey(folder: Path, level: int, number: int) -> dict[str, Path]:
    """Images of one level, each a little brighter than the one before, so that none is equal to another."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for i in range(number):
        files[f"{i:05d}"] = folder / f"{i:05d}.png"
        Image.new("RGB", (SIZE, SIZE), (level + i,) * 3).save(files[f"{i:05d}"])
    return files


def arena_images(
    root: Path, levels: Mapping[str, int], *, real: int | None = 120, number: int = 6
) -> tuple[list[BenchmarkPrompt], list[ImageSet]]:
    """Prompts with photographs of level ``real``, two categories, and an image set per model."""
    real_images = {} if real is None else grey(root / "real", real, number)
    prompts = [
        BenchmarkPrompt(i, f"{i:05d}", f"a grey {i}", "even" if i % 2 == 0 else "odd", real_images.get(f"{i:05d}"))
        for i in range(number)
    ]
    sets = [ImageSet(name, root / name, grey(root / name, level, number)) for name, level in levels.items()]
    return prompts, sets
