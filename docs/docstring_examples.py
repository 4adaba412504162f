"""Make the docstrings' doctests into examples that the site shows as code; mkdocs.yml names this file."""

from __future__ import annotations

import re
from typing import Any

import griffe


class DocstringExamples(griffe.Extension):
    """Call the section "Example" as griffe does, "Examples", and put bare doctests into one."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of each object before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = with_examples(obj.docstring.value)


def with_examples(docstring: str) -> str:
    r"""Rewrite a cleaned docstring.

    Example:
        >>> with_examples("One.\n\n>>> 1 + 1\n2")
        'One.\n\nExamples:\n    >>> 1 + 1\n    2'
    """
    docstring = re.sub(r"^Example:$", "Examples:", docstring, flags=re.MULTILINE)
    return re.sub(r"^>>> (?:.+\n?)+", _as_section, docstring, flags=re.MULTILINE)


def _as_section(doctest: re.Match[str]) -> str:
    return "Examples:\n" + re.sub(r"^(?=.)", "    ", doctest.group(), flags=re.MULTILINE)
