"""Checks of arguments that many constructors share; each raises a ValueError that names the argument and its value."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import Path


def check_at_least(least: int | float, why: str = "", /, **numbers: int | float | None) -> None:
    """Raise ValueError for the first number that is below ``least`` or NaN.

    Args:
        least: Smallest number that passes.
        why: Continues the message behind ``least``.
        **numbers: Numbers by the name of their argument; ``None`` passes.

    Raises:
        ValueError: If a number is too small.

    Example:
        >>> check_at_least(1, batch_size=8, prompts_per_chunk=None)
        >>> check_at_least(2, ", a group of images", images_per_rewrite=1)
        Traceback (most recent call last):
        ValueError: images_per_rewrite must be at least 2, a group of images, got 1.
    """
    for name, value in numbers.items():
        if value is not None and not value >= least:  # NaN too
            raise ValueError(f"{name} must be at least {least}{why}, got {value}.")


def check_confidence(confidence: float) -> None:
    """Check the confidence of an interval.

    Raises:
        ValueError: If it does not lie between 0 and 1.

    Example:
        >>> check_confidence(95)
        Traceback (most recent call last):
        ValueError: confidence must lie between 0 and 1, both excluded, got 95.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, both excluded, got {confidence}.")


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raise ValueError for an unknown word, and suggest the nearest known one.

    Args:
        name: Of the argument.
        value: What was given.
        choices: What is allowed.

    Raises:
        ValueError: If the value is none of the choices.

    Example:
        >>> check_choice("average", "sample", ("decisions", "samples"))
        Traceback (most recent call last):
        ValueError: average must be one of decisions, samples, got 'sample'; did you mean 'samples'?
    """
    if value not in choices:
        nearest = difflib.get_close_matches(value, choices, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}{hint}")


def check_pretrained(pretrained: str) -> None:
    """Raise ValueError for a path to a directory that does not exist.

    Anything that does not look like a path may be a hub id, which only loading can tell.

    Args:
        pretrained: Directory or hub id of a model.

    Raises:
        ValueError: If it is empty, or looks like a path and is no directory.
    """
    first = Path(pretrained).parts[:1]
    looks_local = pretrained.startswith((".", "/")) or ("/" in pretrained and Path(*first).is_dir())
    if not pretrained or (looks_local and not Path(pretrained).is_dir()):
        raise ValueError(f"pretrained must be a directory or a hub id; there is no directory {pretrained!r}.")
