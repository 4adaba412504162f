"""One prompt of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BenchmarkPrompt:
    """One prompt."""

    number: int
    """Its line, from 0."""
    name: str
    """Stem of its real image's file, and of every generated image's."""
    prompt: str
    """The text."""
    category: str = ""
    """Empty where the prompts have none."""
    real_image: Path | None = None
    """None where there are no real images."""
