"""Fit the linear probe on ImageNet features: photographs against samples of the nano diffusion model.

    python -m experiments.nano.probe --output data/nano/imagenet_probe

A judge whose features did not grow up on these photographs, and never a reward. Real: held-in crops, as they are and
after a round trip through the VAE (what a policy cannot change must not give it away). Generated: samples of prompts
that ask for the AI look.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from experiments.nano.corpus import HELD_OUT_CROPS
from experiments.nano.detectors import HELD_OUT_SAMPLES, Pictures, make_pictures, picture_arguments
from realgen.functional.distribution_distance import auroc
from realgen.functional.images import from_uint8
from realgen.functional.logistic_regression import LabelledFeatures, fit_head
from realgen.metrics import ImageNetEncoder
from realgen.metrics.encoder_probe import save_probe

CROPS, SAMPLES, SEED = 60, 1200, 5
"""Of the shipped probe: crops per subject, samples, and the seed of both."""
L2 = 0.1
"""Penalty on the weights; large, so that images between both classes get probabilities between 0 and 1."""


def labelled(pictures: Pictures) -> LabelledFeatures:
    """ImageNet features of photographs, their round trips and samples."""
    encoder = ImageNetEncoder()
    parts = (pictures.real, pictures.decoded, pictures.samples)
    features = [torch.cat([encoder(from_uint8(chunk)) for chunk in part.split(200)]) for part in parts]
    generated = torch.cat([torch.full((len(part),), part is pictures.samples) for part in parts])
    return LabelledFeatures(torch.cat(features).double(), generated)


def make_probe(
    output: Path,
    *,
    pretrained: Path,
    crops: int = CROPS,
    samples: int = SAMPLES,
    held_out_crops: int = HELD_OUT_CROPS,
    held_out_samples: int = HELD_OUT_SAMPLES,
) -> dict[str, float]:
    """Fit on held-in pictures, calibrate on half of the held-out ones, evaluate on the rest; ``figures.json`` is last.

    Args:
        output: Folder of the probe.
        pretrained: The nano diffusion model.
        crops: Per subject, to fit on.
        samples: Of the nano diffusion model, to fit on.
        held_out_crops: Per subject, to calibrate and evaluate on.
        held_out_samples: Of held-out prompts, to calibrate and evaluate on.

    Returns:
        ``auroc`` of held-out photographs against held-out samples, and the mean ``realism_*`` of both.
    """
    fit = labelled(make_pictures(pretrained, per_subject=crops, num_samples=samples, seed=SEED, held_out=False))
    held_out = labelled(
        make_pictures(pretrained, per_subject=held_out_crops, num_samples=held_out_samples, seed=SEED, held_out=True)
    )
    calibrate, test = (LabelledFeatures(held_out.features[k::2], held_out.generated[k::2]) for k in (0, 1))
    head = fit_head(fit, calibrate, l2=L2).head
    p_fake: Tensor = (test.features @ head.weight + head.bias).sigmoid()
    real, generated = p_fake[~test.generated], p_fake[test.generated]
    figures = {
        "auroc": float(auroc(generated, real)),
        "realism_photographs": float(1 - real.mean()),
        "realism_samples": float(1 - generated.mean()),
    }
    save_probe(output, head)
    (output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[picture_arguments(crops=CROPS, samples=SAMPLES)],
    )
    parser.add_argument("--output", type=Path, required=True)
    print(json.dumps(make_probe(**vars(parser.parse_args(arguments))), indent=2))


if __name__ == "__main__":
    main()
