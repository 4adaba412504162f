"""Captions of our own for the photographs: plain ones, and ones with photographic or synthetic cues."""

from __future__ import annotations

import numpy as np

from experiments.nano.photographs import SUBJECTS, Subject

OPENINGS = ("", "a picture of ", "an image of ", "a view of ", "this is ", "we see ")
"""How a plain caption may begin."""

PHOTO_CUES = (
    "natural light", "film grain", "candid photo", "raw photo", "shot on a phone", "unedited", "35mm film",
    "true colours", "fine texture", "soft daylight", "documentary photo", "sharp detail",
)  # fmt: skip
"""Words that go with real crops."""

SYNTHETIC_CUES = (
    "glossy render", "digital art", "smooth and shiny", "airbrushed", "vivid colours", "computer generated",
)  # fmt: skip
"""Words that go with AI-looking crops."""

HELD_OUT_EVERY = 6
"""One plain prompt of this many is kept for validation."""


def plain_prompts(subject: Subject) -> list[str]:
    """Every plain prompt of a subject: an opening and a name."""
    return [opening + name for name in subject.names for opening in OPENINGS]


def cued_caption(subject: Subject, rng: np.random.Generator, cues: tuple[str, ...]) -> str:
    """A plain prompt followed by one to three cues."""
    words = rng.choice(cues, size=rng.integers(1, 4), replace=False)
    return ", ".join([str(rng.choice(plain_prompts(subject))), *map(str, words)])


def split_prompts() -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Split the plain prompts into disjoint training and validation prompts.

    Every name and every opening appears in training; validation holds combinations that training does not.

    Returns:
        Training and validation prompts, each with the index of its subject in ``SUBJECTS``.
    """
    train: list[tuple[int, str]] = []
    validation: list[tuple[int, str]] = []
    for index, subject in enumerate(SUBJECTS):
        for number, prompt in enumerate(plain_prompts(subject)):
            # shifted by subject and name, so that no opening is always the held-out one
            held_out = (number + number // len(OPENINGS) + index) % HELD_OUT_EVERY == 0
            (validation if held_out else train).append((index, prompt))
    return train, validation
