"""The text a rewriting language model is given and the text it gives back, before and after any tokenizer."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
"""What a completion must hold, each once and in this order."""

INSTRUCTION = """\
You rewrite prompts for an image generator so that the picture looks like a photograph that a person took.
First think, between <think> and </think>, about what would give this picture away as generated, and which light, \
lens, camera, grain and everyday flaws a real photograph of it would have. Then write the new prompt between <answer> \
and </answer>: keep every subject, number, colour and place that was asked for, invent no new subject, and describe \
the photograph in plain words. Write nothing after </answer>.

The prompt: {prompt}"""
"""What a language model without training of its own is asked."""

FORMAT = re.compile(r"\s*<think>.*</think>\s*<answer>(.*)</answer>\s*", re.DOTALL)
UNPRINTABLE = {"Cc", "Cn", "Co", "Cs"}
"""Unicode categories without a meaning in a prompt; format characters stay, Persian and emoji need their joiners."""
BIDI_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
REPLACEMENT = "\ufffd"
"""What bytes that are no character decode to."""


def clean(text: str, forbidden: Sequence[str] = ()) -> str:
    r"""Take out what could only do harm in a prompt, and make all white space single spaces.

    Args:
        text: Any text.
        forbidden: Strings with a meaning of their own, such as a tokenizer's special tokens; each becomes a space.

    Returns:
        The text without control characters, half surrogates, reversals of the reading direction and forbidden strings.

    Example:
        >>> clean("a\tcat\x00 <|end|> on a sofa", forbidden=["<|end|>"])
        'a cat on a sofa'
    """
    for token in sorted(forbidden, key=len, reverse=True):
        text = text.replace(token, " ")
    kept = (" " if unicodedata.category(c) in UNPRINTABLE or c in BIDI_OVERRIDES else c for c in text)
    return " ".join("".join(kept).split())


def parse_answer(completion: str, forbidden: Sequence[str] = ()) -> str | None:
    """The answer of a completion in think/answer format.

    Args:
        completion: All that the model wrote, without its end-of-text token.
        forbidden: Strings that break the format wherever they stand, such as a tokenizer's special tokens.

    Returns:
        The answer with single spaces, or ``None`` where the format is broken: a tag is missing, twice there or out of
        order, there is text outside or something forbidden, or the answer is empty or holds what is no character.

    Example:
        >>> parse_answer("<think>grain</think><answer>a cat, film grain</answer>")
        'a cat, film grain'
        >>> parse_answer("<think>grain</think><answer>a cat, film gr")
    """
    if any(completion.count(tag) != 1 for tag in TAGS):  # first, for the pattern is slow where there are thousands
        return None
    if any(token in completion for token in forbidden):
        return None
    found = FORMAT.fullmatch(completion)
    if found is None:
        return None
    answer = " ".join(found.group(1).split())
    return answer if answer and answer == clean(answer, [REPLACEMENT]) else None
