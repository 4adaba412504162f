"""What the nano models can do, in numbers.

The detectors, CLIP and the encoder are measured when they are trained, each on held-out crops. The VAE and the
diffusion model are measured here, the latter by those others and by ``realism``'s measures that learned nothing here.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from experiments.nano.captions import PHOTO_CUES, split_prompts
from experiments.nano.clip import evaluate_clip
from experiments.nano.corpus import HELD_OUT_CROPS, HELD_OUT_SEED, Corpus, make_corpus
from experiments.nano.detectors import draw_samples, round_trip
from experiments.nano.realism import headline, measure_pipeline
from realgen.detectors import Effort, OmniAID
from realgen.functional.images import from_uint8

Figures = dict[str, dict[str, float]]
"""Model -> name of a figure -> value."""

MEASURED_IN_TRAINING = ("clip", "encoder", "omniaid", "effort", "forensic_chat", "imagenet_probe", "llm")
"""Folders with a ``figures.json`` of their own."""
PROMPTS_PER_SUBJECT = 4
"""Held-out prompts that the diffusion model is measured by; there are no more."""
SAMPLE_SEED = 4242
"""Of the pictures that the diffusion model is measured by."""


def psnr(images: Float[Tensor, "rows 3 height width"], decoded: Float[Tensor, "rows 3 height width"]) -> float:
    """Peak signal-to-noise ratio of images in [0, 1] in dB, -10 log10 of the mean squared error, averaged over images.

    Args:
        images: What was to be shown.
        decoded: What is shown; differs from ``images`` in every row.

    Returns:
        Decibels.

    Example:
        >>> psnr(torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.1))
        20.0
    """
    errors = (images - decoded).square().mean((1, 2, 3))
    return round(float(-10 * errors.log10().mean()), 4)


def measure_vae(pretrained: Path, corpus: Corpus) -> dict[str, float]:
    """How true a round trip through the VAE is to held-out crops of both looks."""
    looks = {"real": corpus.real, "ai": corpus.ai}
    return {
        f"psnr_{look}": psnr(from_uint8(pictures), from_uint8(round_trip(pretrained, pictures)))
        for look, pictures in looks.items()
    }


@torch.no_grad()
def measure_diffusion(nano: Path, *, prompts_per_subject: int = PROMPTS_PER_SUBJECT) -> dict[str, float]:
    """Whether held-out prompts are drawn recognisably, and how real with and without photographic cues.

    Args:
        nano: Folder of all finished nano models.
        prompts_per_subject: 1 to ``PROMPTS_PER_SUBJECT``.

    Returns:
        ``retrieval_*`` = share of pictures whose nearest prompt, of one per subject, is their own subject's;
        ``p_fake_*`` = what the detectors say on average. ``*_plain`` of plain prompts, ``*_cued`` of the same with two
        photographic cues: the gap between them is what post-training can close.
    """
    import open_clip

    chosen = [pair for k in range(prompts_per_subject) for pair in split_prompts()[1][k::PROMPTS_PER_SUBJECT]]
    subjects, plain = zip(*chosen, strict=True)
    rng = np.random.default_rng(SAMPLE_SEED)
    cued = [", ".join([prompt, *map(str, rng.choice(PHOTO_CUES, 2, replace=False))]) for prompt in plain]
    pictures = {
        "plain": draw_samples(nano / "sd3", list(plain), seed=SAMPLE_SEED),
        "cued": draw_samples(nano / "sd3", cued, seed=SAMPLE_SEED),
    }
    model = open_clip.create_model(f"local-dir:{nano / 'clip'}").eval()
    corpus = Corpus(real=pictures["cued"], ai=pictures["plain"], subjects=torch.tensor(subjects))
    clip = evaluate_clip(model, nano / "clip", corpus)
    figures = {"retrieval_plain": clip["retrieval_ai"], "retrieval_cued": clip["retrieval_real"]}
    for detector in (OmniAID(str(nano / "omniaid")), Effort(str(nano / "effort"))):
        for kind, drawn in pictures.items():
            figures[f"p_fake_{kind}_{type(detector).__name__.lower()}"] = float(detector(from_uint8(drawn)).mean())
    return figures


def measure(
    nano: Path, *, held_out_crops: int = HELD_OUT_CROPS, prompts_per_subject: int = PROMPTS_PER_SUBJECT
) -> Figures:
    """All figures of all models.

    Args:
        nano: Folder of all finished nano models.
        held_out_crops: Per subject, that the VAE is measured on.
        prompts_per_subject: That the diffusion model is measured by.

    Returns:
        Figures, and under ``megabytes`` the size of each model's weights.
    """
    corpus = make_corpus(held_out_crops, seed=HELD_OUT_SEED + 3, held_out=True)
    figures = {
        "vae": measure_vae(nano / "sd3", corpus),
        "sd3": measure_diffusion(nano, prompts_per_subject=prompts_per_subject),
        "realism": headline(measure_pipeline(nano / "sd3", clip=nano / "clip")),
    }
    for name in MEASURED_IN_TRAINING:
        figures[name] = json.loads((nano / name / "figures.json").read_text(encoding="utf-8"))
    weights = {name: sorted((nano / name).rglob("*.safetensors")) for name in ("sd3", *MEASURED_IN_TRAINING)}
    figures["megabytes"] = {name: sum(path.stat().st_size for path in paths) / 1e6 for name, paths in weights.items()}
    return figures
