"""A reply without all that is not its words: thinking, JSON, markdown, LaTeX and typographic marks."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from itertools import islice
from typing import Any

_THINKING = re.compile(r"[<\[\u25c1]think(?:ing)?[>\]\u25b7]", re.I)
_THOUGHT = re.compile(r"[<\[\u25c1]/think(?:ing)?[>\]\u25b7]", re.I)
_REASON = re.compile(r"^[^\w\n]*(?:reason(?:ing)?|explanation|justification|why)\s*[:\-\u2013\u2014]\s*", re.I | re.M)
_BRACES = 8
"""Places at which JSON is looked for."""


def spoken(reply: str) -> str:
    r"""What follows the thinking, with a JSON object, if there is one, as lines ``name: value``.

    Args:
        reply: As it came.

    Returns:
        The text; nothing where the thinking was cut off before its end. Of JSON, the longest line is the last.

    Example:
        >>> spoken('<think>Hm.</think>{"reason": "Natural light.", "answer": 2}')
        '\nanswer: 2\nreason: Natural light.\n'
    """
    text = _THINKING.split(_THOUGHT.split(reply)[-1])[0]
    for brace in islice(re.finditer(r"\{", text), _BRACES):
        try:
            found, end = json.JSONDecoder().raw_decode(text, brace.start())
        except (ValueError, RecursionError):
            continue
        return "\n".join([text[: brace.start()], *sorted(_fields("", found), key=len), text[end:]])
    return text


def plain(text: str) -> str:
    r"""Lower case, and one space between words; without marks of any kind that are not of the sentences.

    Args:
        text: What ``spoken`` returned.

    Returns:
        The text; what is boxed is on a line ``answer: ...``.

    Example:
        >>> plain("So **Image\u00a02**, \\boxed{2}")
        'so image 2 , \nanswer: 2\n'
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    text = re.sub(r"~~[^~\n]{1,200}~~", " ", text).replace("[ ]", "not ")  # struck out, and boxes that are not ticked
    text = re.sub(r"\\boxed ?\{((?:[^{}\n]|\{[^{}\n]{0,60}\}){0,60})\}", r"\nanswer: \1\n", text)
    text = re.sub(r"<(?:answer|verdict|choice)>|<\|begin_of_box\|>", "\nanswer: ", text)
    text = re.sub(r"</(?:answer|verdict|choice)>|<\|end_of_box\|>", "\n", text)
    text = re.sub(r"\\[a-z]+|[*_`#>{}$\"\u201c\u201d]+|</?[a-z_]{1,20}>|<\|[a-z_]{1,20}\|>|(?<!\w)'|'(?!\w)", " ", text)
    return re.sub(r"[^\S\n]+", " ", text)


def reason(text: str) -> str:
    r"""What follows the word for it; else what follows the first line; else all.

    Args:
        text: What ``spoken`` returned.

    Returns:
        The reason.

    Example:
        >>> reason("**Answer:** 2\n**Reason:** Natural light.")
        'Natural light.'
    """
    text = re.sub(r"[*_`#]+", "", text).strip()
    parts = _REASON.split(text, maxsplit=1)
    if len(parts) == 2:
        return parts[1].strip()
    _, _, rest = text.partition("\n")
    return (rest or text).strip()


def _fields(name: str, value: Any) -> Iterator[str]:
    """JSON's scalars as lines; a scalar in a list has the list's name."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _fields(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key), child)
    elif isinstance(value, list):
        for child in value:
            yield from _fields(name, child)
    else:
        yield f"{name}: {value}"
