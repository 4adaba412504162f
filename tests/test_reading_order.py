"""The files to read for one iteration, as docs/architecture.md lists them, and all the files that it enters: few."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from tests.helpers.forked import forked

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


@pytest.mark.slow
def test_a_training_step_enters_few_files_and_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    script = ROOT / "experiments" / "benchmarks" / "iteration_journey.py"
    monkeypatch.setattr(sys, "argv", [str(script)])
    result = forked(lambda: runpy.run_path(str(script), run_name="__main__") and None, ROOT)
    assert result.returncode == 0, result.stderr
    total = re.search(r"^(\d+) files, ([\d,]+) lines", result.stdout, re.MULTILINE)
    assert total is not None, result.stdout
    assert int(total[1]) <= 32, result.stdout
    assert int(total[2].replace(",", "")) <= 4300, result.stdout
