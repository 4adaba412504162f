"""Prompts and rewrites of our own, from which the nano language model learns its format, its cues, and to copy.

A rewrite keeps the prompt word by word and adds one to four cues, thought of before. The first one is photographic;
of the others most are glossy, as a language model that was never told how photographs look also writes
"vivid colours": what GRPO is to find out. Two prompts of five are those of the photographs; the others are composed of
further words, of invented ones, and of other scripts, so that the model learns to copy what it does not know.
"""

from __future__ import annotations

import numpy as np

from experiments.nano.captions import PHOTO_CUES, SYNTHETIC_CUES, split_prompts

GLOSSY = 0.75
"""Chance of each cue but the first to be a synthetic one."""
MOST_CUES = 4
MORE = 0.75
"""Chance of a further cue."""
ARTICLES = ("a", "the", "one", "two", "some", "my", "an old", "this")
ADJECTIVES = (
    "red", "blue", "small", "large", "young", "happy", "wet", "broken", "wooden", "white", "dark", "round", "tall",
    "quiet", "empty", "busy", "yellow", "striped", "paper", "iron", "sleeping", "running", "painted", "frozen",
)  # fmt: skip
NOUNS = (
    "dog", "horse", "house", "bicycle", "boat", "child", "man", "bridge", "street", "train", "apple", "bottle", "chair",
    "window", "guitar", "bird", "fish", "car", "mountain", "river", "clock", "book", "lamp", "market", "bread", "shoe",
    "hat", "garden", "church", "truck", "sheep", "table", "door", "kitchen", "forest", "umbrella", "teapot", "statue",
)  # fmt: skip
PLACES = (
    "in the rain", "on a table", "at night", "by the sea", "in a park", "under a bridge", "in winter", "near a window",
    "on the street", "in the snow", "behind a fence", "in front of a house", "at the station", "in the morning",
)  # fmt: skip
LETTERS = "aaabcddeeeefghiiijklllmnnooopqrrrsssttttuuvwxyz"
"""Of invented words, each about as often as in English."""
KNOWN = (*ARTICLES, *ADJECTIVES, *NOUNS, "in", "on", "at", "with", "of", "behind", "from", "work")
SCRIPTS = ("абвгдежзиклмнопрст", "αβγδεζηθικλμνξοπρσ", "猫狗山水花人大小木火土天", "ابتثجحخدذرزسشص", "äöüßéèñçøåłš")
UNSEEN_PROMPTS = (
    "a zebra in a bathtub", "three penguins on a sofa", "a lighthouse behind dunes", "an elephant with a violin",
    "a bowl of noodles", "a dentist at work", "grandmother knitting", "a tractor on a muddy field",
    "two wolves at dusk", "a surfer on a huge wave", "a bowl of ripe cherries", "a pharmacist in a white coat",
    "a kangaroo crossing a highway", "a broken violin on velvet", "a foggy harbour", "a beekeeper with hives",
)  # fmt: skip
"""Prompts whose main words occur in no training prompt."""


def draw_prompt(rng: np.random.Generator) -> str:
    """A training prompt of any kind."""
    kind = rng.random()
    if kind < 0.4:
        train = split_prompts()[0]
        return train[rng.integers(len(train))][1]
    if kind < 0.55:
        words = [rng.choice(ARTICLES), rng.choice(ADJECTIVES), rng.choice(NOUNS), rng.choice(PLACES)]
        return " ".join(map(str, (word for word in words if rng.random() < 0.8))) or "a dog"
    if kind < 0.9:
        words = [_invented_word(rng) if rng.random() < 0.6 else rng.choice(KNOWN) for _ in range(rng.integers(1, 6))]
        return " ".join(map(str, words))
    script = SCRIPTS[rng.integers(len(SCRIPTS))]
    return " ".join("".join(rng.choice(list(script), rng.integers(1, 5))) for _ in range(rng.integers(1, 4)))


def draw_completion(prompt: str, rng: np.random.Generator) -> str:
    """A rewrite in think/answer format."""
    photographic = list(map(str, rng.permutation(PHOTO_CUES)))
    glossy = list(map(str, rng.permutation(SYNTHETIC_CUES)))
    cues = [photographic.pop()]
    while len(cues) < MOST_CUES and rng.random() < MORE:
        cues.append((glossy if rng.random() < GLOSSY else photographic).pop())
    thought = ", ".join(cues)
    return f"<think>as a photo: {thought}</think><answer>{prompt}, {thought}</answer>"


def added_cues(prompt: str, text: str) -> tuple[str, ...] | None:
    """What a rewrite adds to a prompt that it keeps word by word, or ``None`` if it does not keep it.

    Args:
        prompt: The user's.
        text: The rewrite.

    Returns:
        Cues in order.

    Example:
        >>> added_cues("a cat", "a cat, film grain, digital art")
        ('film grain', 'digital art')
        >>> added_cues("a cat", "a dog, film grain")
    """
    if text == prompt:
        return ()
    if not text.startswith(f"{prompt}, "):
        return None
    return tuple(text[len(prompt) + 2 :].split(", "))


def _invented_word(rng: np.random.Generator) -> str:
    return "".join(map(str, rng.choice(list(LETTERS), rng.integers(1, 10))))
