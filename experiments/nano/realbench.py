"""Write the small RealBench of the embedded default, in the layout of the published one.

    python -m experiments.nano.realbench --output data/realbench

80 held-out prompts, each with a photograph of its subject that no other set has: ``real-img-benchmark/00000.jpg`` ...,
``prompt.txt``, ``long_prompts.txt`` (the same prompts with photographic cues) and ``categories.json``. The subjects are
those that the nano models know, so it shows how the benchmark works, and compares nano models with each other; how real
the images of a full-size model look is for the published set to say.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.nano.captions import PHOTO_CUES, split_prompts
from experiments.nano.corpus import HELD_OUT_SEED
from experiments.nano.photographs import SUBJECTS, real_crop

PHOTOGRAPH_SEED, CUE_SEED = HELD_OUT_SEED + 7, HELD_OUT_SEED + 8
"""Of the crops, which no other held-out corpus has, and of the cues in the long prompts."""
SIZE = 96
"""Side of the photographs in pixels; about the smallest crop, so that none is enlarged."""
QUALITY = 95
"""Of their JPEG files."""
CUES = 3
"""Photographic cues of a long prompt."""
CATEGORIES: dict[str, tuple[str, ...]] = {
    "animals": ("a cat", "a cat's eye"),
    "buildings": ("bricks", "a pagoda"),
    "objects": ("a space shuttle", "a space helmet", "a cup of coffee", "ancient coins", "a rocket"),
    "outdoor_view": ("dry grass", "gravel", "trees by a lake"),
    "people": ("a smiling woman", "an astronaut", "a cameraman"),
    "plants": ("a flower", "petals"),
    "science": ("galaxies", "a retina", "stained tissue"),
}
"""First names of the subjects in each category."""


def write_realbench(output: Path) -> Path:
    """Write the benchmark, in place of one that is there; the folder appears when all is written.

    Args:
        output: Its folder. The same code and packages give the same bytes.

    Returns:
        The folder.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    photographs = unfinished / "real-img-benchmark"
    photographs.mkdir()
    crops, cues = np.random.default_rng(PHOTOGRAPH_SEED), np.random.default_rng(CUE_SEED)
    prompts: list[str] = []
    ranges: dict[str, list[int]] = {}
    subjects = {subject.names[0]: index for index, subject in enumerate(SUBJECTS)}
    held_out = split_prompts()[1]
    for category, names in CATEGORIES.items():
        first = len(prompts)
        for name in names:
            for index, prompt in held_out:
                if index == subjects[name]:
                    crop = real_crop(SUBJECTS[index], crops, size=SIZE, held_out=True)
                    path = photographs / f"{len(prompts):05d}.jpg"
                    Image.fromarray((crop * 255).round().astype(np.uint8)).save(path, quality=QUALITY)
                    prompts.append(prompt)
        ranges[category] = [first, len(prompts) - 1]
    long = [", ".join([prompt, *map(str, cues.choice(PHOTO_CUES, CUES, replace=False))]) for prompt in prompts]
    (unfinished / "prompt.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
    (unfinished / "long_prompts.txt").write_text("\n".join(long) + "\n", encoding="utf-8")
    lines = (f"  {json.dumps(category)}: {json.dumps(lines)}" for category, lines in ranges.items())
    (unfinished / "categories.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    unfinished.chmod(0o755)  # a temporary folder is closed to others
    shutil.rmtree(output, ignore_errors=True)
    os.replace(unfinished, output)
    return output


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("data/realbench"))
    print(write_realbench(**vars(parser.parse_args(arguments))))


if __name__ == "__main__":
    main()
