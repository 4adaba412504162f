"""Checks of arguments that many constructors share; each raises a ValueError that names the argument and its value."""

import difflib
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_TOKENIZER_FILES = (
    *(("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",)),
    *(("spiece.model",), ("tokenizer.model",), ("sentencepiece.bpe.model",)),
)
_PLAIN_WORDS = "a photo of two dogs on the grass"
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def check_at_least(least: int | float, why: str = "", /, **numbers: int | float | None) -> None:
    """Raise ValueError for the first number below ``least`` or NaN; None passes. ``why`` goes behind ``least``."""
    for name, value in numbers.items():
        if value is not None and not value >= least:  # NaN too
            raise ValueError(f"{name} must be at least {least}{why}, got {value}.")


def check_confidence(confidence: float) -> None:
    """Raise ValueError if the confidence of an interval does not lie between 0 and 1."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, both excluded, got {confidence}.")


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raise ValueError for a word that is none of the choices, and suggest the nearest one."""
    if value not in choices:
        near = nearest_name(value, choices)
        hint = f"; did you mean {near!r}?" if near else "."
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}{hint}")


def printable(text: str) -> str:
    r"""Return a text with its control characters written out, so that none of it moves a cursor or forges a line.

    Line breaks stay. Overrides of the direction count as control characters; joiners of scripts and emoji do not.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def with_article(name: str) -> str:
    """Return a name behind its indefinite article."""
    return f"a{'n' if name[:1] in 'AEIOaeio' else ''} {name}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def nearest_name(name: str, names: Iterable[str], *, surely: bool = False) -> str | None:
    """Return the known name that a misspelt one most likely stands for; None where none is near.

    The one that is the fewest typing errors away is taken, if that is one error or if a good part of the name is right;
    ``surely``: none that is more than two errors away.
    """

    def distance(known: str) -> tuple[int, bool, float]:
        ratio = difflib.SequenceMatcher(None, name.lower(), known.lower()).ratio()
        return _typing_errors(name.lower(), known.lower()), sorted(name) != sorted(known), -ratio

    found = min(((distance(known), known) for known in names), default=None)
    if found is None:
        return None
    (errors, _, ratio), known = found
    similar = -ratio >= 0.6 and not (surely and errors > 2)
    return known if similar or (errors == 1 and len(known) > 1) else None


def nearest(name: str, names: Iterable[str], *, prefix: str = "") -> str:
    """Return the sentence that suggests the right name, behind a prefix: the nearest, or all of a few, or none."""
    allowed = sorted(names)
    if near := nearest_name(name, allowed):
        return f"Did you mean {prefix}{near}?"
    if 0 < len(allowed) <= 20:
        return f"Allowed: {', '.join(prefix + other for other in allowed)}."
    return ""


def _typing_errors(one: str, other: str) -> int:
    """Return how many letters are dropped, added, replaced or swapped with a neighbour (optimal string alignment)."""
    before: list[int] = []
    above: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before, above, row = above, row, [i]
        for j, wanted in enumerate(other, 1):
            cost = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
    return row[-1]


def check_pretrained(pretrained: str) -> None:
    """Raise ValueError for a model's name that is empty, or looks like a path and is no directory; hub ids pass."""
    first = Path(pretrained).parts[:1]
    looks_local = pretrained.startswith((".", "/")) or ("/" in pretrained and Path(*first).is_dir())
    if not pretrained or (looks_local and not Path(pretrained).is_dir()):
        raise ValueError(f"pretrained must be a directory or a hub id; there is no directory {pretrained!r}.")


def check_tokenizer(tokenizer: Any, rows: int, argument: str = "pretrained") -> None:
    """Raise ValueError for a tokenizer of transformers that does not belong to its text encoder.

    transformers makes a tokenizer without words of a folder that lacks its file, and says nothing.

    ``rows`` are those of the encoder's table of tokens; ``argument`` names where it was read from.

    Raises:
        ValueError: If its folder lacks its file, it has more tokens than the encoder, or plain words are unknown to it.
    """
    folder, kind = Path(tokenizer.name_or_path or "memory"), type(tokenizer).__name__
    if folder.is_dir() and not any(all((folder / name).is_file() for name in names) for names in _TOKENIZER_FILES):
        others = ", or ".join(" and ".join(names) for names in _TOKENIZER_FILES[1:])
        raise ValueError(f"{argument}: {folder} lacks tokenizer.json ({others}), the vocabulary of its {kind}.")
    if len(tokenizer) > rows:
        raise ValueError(
            f"{argument}: the {kind} in {folder} has {len(tokenizer)} tokens, and its text encoder knows {rows}."
        )
    tokens = tokenizer(_PLAIN_WORDS, add_special_tokens=False)["input_ids"]
    unknown = sum(token == tokenizer.unk_token_id for token in tokens)
    if 2 * unknown > len(tokens) or not (tokens or folder.is_dir()):
        raise ValueError(
            f"{argument}: the {kind} in {folder} knows {len(tokens) - unknown} of the {len(tokens)} tokens of "
            f"{_PLAIN_WORDS!r}; its tokenizer.json is not that of the model."
        )


def check_address(name: str, url: str, form: str, *, instead: str = "use a token") -> None:
    """Check the address of a service; configs, logs and results show it, but no message shows a secret in it.

    ``form`` is what it must be, as the end of "must ..."; ``instead`` what to do with a user and a password.

    Raises:
        ValueError: If it is no http address, holds a user and a password, or a query.
    """
    if "@" in url:
        raise ValueError(
            f"{name} must hold no user and password, which would be written to logs and results; {instead}."
        )
    shown = re.sub(r"[?#].*", "?...", url, flags=re.DOTALL)
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that are no IPv6 address, or a port that is no number up to 65535
        valid = False
    if not valid or shown != url or not re.fullmatch(r"[!-~]+", url):
        raise ValueError(f"{name} must {form}, got {shown!r}.")


def check_variable(name: str, variable: str, example: str) -> None:
    """Raise ValueError for no name of an environment variable; it is not shown, as it may be the secret itself."""
    if not re.fullmatch(r"[A-Za-z_]\w*", variable):
        raise ValueError(
            f"{name} must be the name of an environment variable, such as {example}, not the key: configs are written "
            "to files."
        )
