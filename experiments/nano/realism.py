"""Measure how real the images of a nano pipeline are, with measures that learned nothing from our photographs.

    python -m experiments.nano.realism --pretrained data/nano/sd3 --clip data/nano/clip --grid samples.png

Held-out prompts are drawn plainly and with two photographic cues each. The gap between both is what post-training can
close; the distance of the cued images is what no prompt closes, and that of the round trip what no policy closes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from skimage.color import rgb2lab
from torch import Tensor
from torchvision.utils import make_grid

from experiments.nano.captions import PHOTO_CUES, split_prompts
from experiments.nano.clip import evaluate_clip
from experiments.nano.corpus import Corpus
from experiments.nano.detectors import draw_samples, round_trip
from experiments.nano.photographs import SUBJECTS
from experiments.nano.prompts import validation_samples
from realgen.functional.distribution_distance import kernel_distance
from realgen.functional.images import from_uint8, to_uint8
from realgen.functional.spectrum import radial_spectrum
from realgen.metrics import ImageNetEncoder
from realgen.metrics.base import jackknife_error
from realgen.tables import markdown_table

Images = Float[Tensor, "images 3 height width"]
Features = Float[Tensor, "images feature"]

DRAWS, SEED, STEPS = 2, 4242, 16
"""Images of each prompt, their seed, and the steps that each is drawn in."""
RINGS, BANDS = 32, 8
"""Rings of the spectrum, and the bands of neighbouring rings that are told."""


@dataclass(frozen=True)
class HeldOut:
    """Prompts that no training has seen, with photographs of their subjects."""

    subjects: list[int]
    """Index into ``SUBJECTS`` of each prompt."""
    plain: list[str]
    """Prompts as users write them."""
    cued: list[str]
    """The same, each with two photographic cues."""
    photographs: UInt8[Tensor, "prompts 3 64 64"]
    """One held-out crop for each prompt."""


def held_out() -> HeldOut:
    """Return the validation prompts of the embedded default with their photographs."""
    samples = list(validation_samples())
    index = {subject.names[0]: number for number, subject in enumerate(SUBJECTS)}
    plain = [sample["prompt"] for sample in samples]
    rng = np.random.default_rng(SEED)
    cued = [", ".join([prompt, *map(str, rng.choice(PHOTO_CUES, 2, replace=False))]) for prompt in plain]
    pixels = torch.from_numpy(np.stack([np.asarray(sample["image"]) for sample in samples]))
    assert set(plain) == {prompt for _, prompt in split_prompts()[1]}, "the shards hold every held-out prompt"
    return HeldOut([index[sample["subject"]] for sample in samples], plain, cued, pixels.permute(0, 3, 1, 2))


class Realism:
    """Distances of images to the held-out photographs.

    Args:
        photographs: [M, 3, H, W] in [0, 1].
    """

    def __init__(self, photographs: Images) -> None:
        self.encoder = ImageNetEncoder()
        self.photographs, self.features = photographs, self.describe(photographs)

    def describe(self, images: Images) -> Features:
        """ImageNet features, which the other methods compare."""
        return self.encoder(images).double()

    def kid_without_each(self, features: Features) -> Float[Tensor, " prompts"]:
        """Leave out one photograph and the images of its prompt after the other.

        Args:
            features: [draws * M, D] of images; draw d of prompt p is in row d M + p.

        Returns:
            [M] KID without each prompt.
        """
        prompts = len(self.features)
        features = features.unflatten(0, (-1, prompts))  # [draws, M, D]
        others = [torch.arange(prompts) != prompt for prompt in range(prompts)]
        return torch.stack([kernel_distance(features[:, keep].flatten(0, 1), self.features[keep]) for keep in others])

    def measure(self, images: Images, features: Features) -> dict[str, float]:
        """Measure images of the same subjects as the photographs, equally many of each.

        Args:
            images: [N, 3, H, W] in [0, 1].
            features: [N, D] of the images.

        Returns:
            ``kid`` in ImageNet features, ``chroma`` (mean distance to grey), ``lightness_std`` (contrast within an
            image; both in CIELAB units), and for each band of the spectrum how many dB it lies above the photographs'.
        """
        spectrum = radial_spectrum(images, RINGS).mean(0) - radial_spectrum(self.photographs, RINGS).mean(0)
        bands = spectrum.view(BANDS, RINGS // BANDS).mean(1)  # [BANDS], lowest frequencies first
        lab = torch.from_numpy(rgb2lab(images.numpy(), channel_axis=1))
        return {
            "kid": float(kernel_distance(features, self.features)),
            "chroma": float(torch.hypot(lab[:, 1], lab[:, 2]).mean()),
            "lightness_std": float(lab[:, 0].flatten(1).std(1).mean()),
            **{f"band_{number}": float(value) for number, value in enumerate(bands, start=1)},
        }


def retrieval(clip: Path, images: UInt8[Tensor, "images 3 64 64"], subjects: list[int]) -> float:
    """Return the share of images whose nearest prompt, of one for each subject, is of their own subject."""
    import open_clip

    model: Any = open_clip.create_model(f"local-dir:{clip}").eval()
    corpus = Corpus(real=images, ai=images, subjects=torch.tensor(subjects))
    return evaluate_clip(model, clip, corpus)["retrieval_real"]


def measure_pipeline(
    pretrained: Path, *, clip: Path | None = None, draws: int = DRAWS, steps: int = STEPS, grid: Path | None = None
) -> dict[str, dict[str, float]]:
    """Measure photographs, their round trip through the VAE, and images of plain and of cued prompts.

    Args:
        pretrained: Folder of the pipeline.
        clip: Folder of the nano CLIP that ``retrieval`` is measured by; None leaves it out.
        draws: Images of each prompt.
        steps: Of the sampler.
        grid: Where to write a sheet with one image of each prompt, plain above cued; None writes none.

    Returns:
        What was measured -> figure -> value. For ``photographs`` it is one half of them against the other; ``gap`` says
        how much farther plain prompts are than cued ones. ``kid_error`` is a standard error over prompts.
    """
    known = held_out()
    real = from_uint8(known.photographs)
    realism = Realism(real)
    decoded = from_uint8(round_trip(pretrained, known.photographs))
    first, second = torch.randperm(len(real), generator=torch.Generator().manual_seed(0)).chunk(2)
    figures = {
        "photographs": Realism(real[second]).measure(real[first], realism.features[first]),
        "round trip": realism.measure(decoded, realism.describe(decoded)),
    }
    sheet, without_each = [], {}
    for kind, prompts in (("plain", known.plain), ("cued", known.cued)):
        drawn = draw_samples(pretrained, prompts * draws, seed=SEED, num_steps=steps)
        images = from_uint8(drawn)
        features = realism.describe(images)
        without_each[kind] = realism.kid_without_each(features)
        figures[kind] = {**realism.measure(images, features), "kid_error": jackknife_error(without_each[kind])}
        if clip is not None:
            figures[kind]["retrieval"] = retrieval(clip, drawn, known.subjects * draws)
        sheet.append(images[: len(prompts)])
    figures["gap"] = {
        "kid": figures["plain"]["kid"] - figures["cued"]["kid"],
        "kid_error": jackknife_error(without_each["plain"] - without_each["cued"]),
    }
    if grid is not None:
        pixels = to_uint8(make_grid(torch.cat(sheet), nrow=len(SUBJECTS)))
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(grid)
    return figures


def headline(figures: dict[str, dict[str, float]]) -> dict[str, float]:
    """Pick what the README tells of ``measure_pipeline``'s figures: distances with errors, and the worst bands in dB.

    Example:
        >>> headline({"cued": {"kid": 0.03, "kid_error": 0.004, "band_1": 0.5, "band_2": -3.0, "chroma": 17.0}})
        {'kid_cued': 0.03, 'kid_error_cued': 0.004, 'worst_band_cued': -3.0}
    """
    told = {}
    for kind, values in figures.items():
        name = kind.replace(" ", "_")
        told |= {f"{figure}_{name}": values[figure] for figure in ("kid", "kid_error", "retrieval") if figure in values}
        bands = [value for figure, value in values.items() if figure.startswith("band_")]
        if bands:
            told[f"worst_band_{name}"] = max(bands, key=abs)
    return told


def table(figures: dict[str, dict[str, float]]) -> str:
    """Figures as Markdown, one column for each thing that was measured."""
    names = list(dict.fromkeys(name for values in figures.values() for name in values))
    digits = {"kid": 4, "kid_error": 4, "retrieval": 3}
    rows = [
        (name, *(f"{values[name]:.{digits.get(name, 1)}f}" if name in values else "" for values in figures.values()))
        for name in names
    ]
    return markdown_table(["figure", *figures], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", type=Path, default=Path("data/nano/sd3"), help="folder of the pipeline")
    parser.add_argument("--clip", type=Path, help="folder of the nano CLIP, for retrieval")
    parser.add_argument("--draws", type=int, default=DRAWS, help="images of each prompt")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the sampler")
    parser.add_argument("--grid", type=Path, help="where to write a sheet of the images")
    parser.add_argument("--output", type=Path, help="where to write the figures as JSON")
    args = vars(parser.parse_args(arguments))
    output = args.pop("output")
    figures = measure_pipeline(**args)
    if output is not None:
        output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(table(figures))


if __name__ == "__main__":
    main()
