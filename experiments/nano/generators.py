"""Write held-out photographs and images of several generators, all of the embedded world, for a report of blind spots.

    python -m experiments.nano.generators --output FOLDER

``real`` are held-out crops of photographs. ``generated`` has the embedded model on held-out prompts with synthetic cues
(``sd3_synthetic``), without (``sd3_plain``), with photographic cues (``sd3_photo``), plain in four steps
(``sd3_four_steps``), and AI-looking crops (``ai_look``).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from experiments.nano.captions import PHOTO_CUES, SYNTHETIC_CUES
from experiments.nano.corpus import HELD_OUT_SEED, make_corpus
from experiments.nano.detectors import draw_samples
from experiments.nano.prompts import split_prompts

PRETRAINED = Path("data/nano/sd3")
PER_SUBJECT, NUMBER, SEED = 8, 160, 11
"""Crops of each of the 20 subjects, samples of each generator, and the seed of both: unlike those of all detectors."""


def write(images: Tensor, folder: Path) -> None:
    """Write PNG files."""
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        to_pil_image(image).save(folder / f"{number:03d}.png")


def write_generators(output: Path) -> None:
    """Make all folders in ``output``, which is not there yet."""
    corpus = make_corpus(PER_SUBJECT, seed=HELD_OUT_SEED + SEED, held_out=True)
    write(corpus.real, output / "real")
    write(corpus.ai, output / "generated/ai_look")
    prompts = [prompt for _, prompt in split_prompts()[1]]
    plain = [prompts[number % len(prompts)] for number in range(NUMBER)]
    for name, cues in (("synthetic", SYNTHETIC_CUES), ("photo", PHOTO_CUES)):
        chosen = np.random.default_rng(SEED).choice(cues, NUMBER)
        cued = [f"{prompt}, {cue}" for prompt, cue in zip(plain, chosen, strict=True)]
        write(draw_samples(PRETRAINED, cued, seed=SEED), output / f"generated/sd3_{name}")
    write(draw_samples(PRETRAINED, plain, seed=SEED), output / "generated/sd3_plain")
    write(draw_samples(PRETRAINED, plain, seed=SEED, num_steps=4), output / "generated/sd3_four_steps")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    write_generators(parser.parse_args(arguments).output)


if __name__ == "__main__":
    main()
