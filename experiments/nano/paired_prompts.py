"""The embedded training prompts, each with a crop of its subject: pairs for a detector that learns."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.nano import photographs
from experiments.nano.captions import split_prompts
from experiments.nano.photographs import SUBJECTS, real_crop
from realgen.data import PromptShards
from realgen.data.shards import write_shards

SEED = 11
"""Of the crops, unlike those of the shipped models and of the validation prompts."""


def paired_samples() -> Iterator[dict[str, Any]]:
    """Training prompts with photographs; textures keep out of what held-out crops are cut from.

    Yields:
        Samples as ``write_shards`` takes them.
    """
    rng = np.random.default_rng(SEED)
    for index, prompt in split_prompts()[0]:
        crop = Image.fromarray((real_crop(SUBJECTS[index], rng) * 255).round().astype(np.uint8))
        yield {"prompt": prompt, "subject": SUBJECTS[index].names[0], "image": crop}


class NanoPairs(PromptShards):
    """``PromptShards`` of the embedded training prompts with photographs, which are cut when they are not there yet.

    Args:
        directory: Where the folder of the shards is made.
        **settings: Of ``PromptShards``, without ``train`` and ``train_images``.
    """

    def __init__(self, directory: str = "runs/nano_pairs", **settings: Any) -> None:
        code = f"{SEED} {Path(photographs.__file__).read_text()}"
        folder = Path(directory, hashlib.sha256(code.encode()).hexdigest()[:12])
        if not list(folder.glob("*.tar")):
            write_shards(paired_samples(), folder, overwrite=True)
        super().__init__(f"{folder}/*.tar", train_images=True, **settings)
