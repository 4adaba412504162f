"""The files to read for one iteration, as docs/architecture.md lists them: at most twelve, and all of them there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"


def test_an_iteration_is_understood_from_twelve_files() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("files to read\n")[2].partition("\n## ")[0]
    listed = re.findall(r"^\d+\. `(realgen/[\w/]+\.py)`", section, re.MULTILINE)
    assert 10 <= len(listed) <= 12
    assert len(set(listed)) == len(listed)
    missing = [name for name in listed if not (ROOT / name).is_file()]
    assert not missing


def test_the_methods_that_are_named_exist() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("files to read\n")[2].partition("\n## ")[0]
    for name, text in re.findall(r"^\d+\. `(realgen/[\w/]+\.py)`: (.*)$", section, re.MULTILINE):
        source = (ROOT / name).read_text(encoding="utf-8")
        missing = [word for word in re.findall(r"`(\w+)`", text) if f"def {word}(" not in source]
        assert not missing, f"{name} has no {missing}"
