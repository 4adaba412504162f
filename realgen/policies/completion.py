"""The texts around a rewriting language model: its instruction, its answer's format, and the cleaning of prompts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
"""Tags of a completion, each once and in this order."""

INSTRUCTION = """\
You rewrite prompts for an image generator so that the picture looks like a photograph that a person took.
First think, between <think> and </think>, about what would give this picture away as generated, and which light, \
lens, camera, grain and everyday flaws a real photograph of it would have. Then write the new prompt between <answer> \
and </answer>: keep every subject, number, colour and place that was asked for, invent no new subject, and describe \
the photograph in plain words. Write nothing after </answer>.

The prompt: {prompt}"""
"""The default instruction, for a language model that was not trained on another one."""

FORMAT = re.compile(r"\s*<think>.*</think>\s*<answer>(.*)</answer>\s*", re.DOTALL)
UNPRINTABLE = {"Cc", "Cn", "Co", "Cs"}
"""Unicode categories that are removed; format characters stay, as Persian and emoji need their joiners."""
BIDI_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
REPLACEMENT = "\ufffd"
"""The character to which invalid bytes decode."""


def clean(text: str, forbidden: Sequence[str] = ()) -> str:
    r"""Return a text without control characters, half surrogates, direction overrides and ``forbidden`` strings.

    White space becomes single spaces, and so does a forbidden string, such as a tokenizer's special token.

    Example:
        >>> clean("a\tcat\x00 <|end|> on a sofa", forbidden=["<|end|>"])
        'a cat on a sofa'
    """
    for token in sorted(forbidden, key=len, reverse=True):
        text = text.replace(token, " ")
    kept = (" " if unicodedata.category(c) in UNPRINTABLE or c in BIDI_OVERRIDES else c for c in text)
    return " ".join("".join(kept).split())


def parse_answer(completion: str, forbidden: Sequence[str] = ()) -> str | None:
    """Return the answer of a completion in think/answer format with single spaces, None where the format is broken.

    It is broken if a tag is missing, repeated or out of order, if there is text outside the tags or a ``forbidden``
    string anywhere, or if the answer is empty or has an invalid character.

    Example:
        >>> parse_answer("<think>grain</think><answer>a cat, film grain</answer>")
        'a cat, film grain'
        >>> parse_answer("<think>grain</think><answer>a cat, film gr")
    """
    if any(completion.count(tag) != 1 for tag in TAGS):  # first, as the pattern is slow on thousands of tags
        return None
    if any(token in completion for token in forbidden):
        return None
    found = FORMAT.fullmatch(completion)
    if found is None:
        return None
    answer = " ".join(found.group(1).split())
    return answer if answer and answer == clean(answer, [REPLACEMENT]) else None
