"""Pairs of real crops and their AI-looking counterparts, as tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from tqdm import tqdm

from experiments.nano.photographs import SUBJECTS, ai_look, real_crop

TRAIN_SEED, HELD_OUT_SEED = 20251, 97003
"""Seeds of the shipped corpora."""
HELD_OUT_CROPS = 10
"""Crops per subject that a model is evaluated on."""


@dataclass(frozen=True)
class Corpus:
    """Crops of every subject, and the same crops made AI-looking."""

    real: UInt8[Tensor, "crops 3 size size"]
    """Photographs."""
    ai: UInt8[Tensor, "crops 3 size size"]
    """Counterparts, row by row."""
    subjects: Int[Tensor, " crops"]
    """Index into ``SUBJECTS``."""


def make_corpus(crops_per_subject: int, *, seed: int, size: int = 64, held_out: bool = False) -> Corpus:
    """Cut ``crops_per_subject`` crops of each subject; the same arguments give the same tensors.

    Args:
        crops_per_subject: Crops of each subject.
        seed: Of the ``numpy`` generator.
        size: Side in pixels.
        held_out: Cut textures at the end that training crops keep out of, see ``real_crop``.
    """
    rng = np.random.default_rng(seed)
    real, ai, subjects = [], [], []
    for index, subject in enumerate(tqdm(SUBJECTS, desc="cutting crops", unit="subject", leave=False)):
        for _ in range(crops_per_subject):
            crop = real_crop(subject, rng, size=size, held_out=held_out)
            real.append(crop)
            ai.append(ai_look(crop, rng))
            subjects.append(index)
    return Corpus(to_bytes(real), to_bytes(ai), torch.tensor(subjects))


def to_bytes(pictures: list[np.ndarray]) -> UInt8[Tensor, "crops 3 size size"]:
    """Stack pictures [size, size, 3] in [0, 1] into bytes."""
    return torch.from_numpy((np.stack(pictures) * 255).round().astype(np.uint8)).permute(0, 3, 1, 2).contiguous()
