"""Tests of docs/attacks.py, and of the page that it writes."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_page_lists_the_attacks_that_exist_and_all_are_survived() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "attacks.py"))
    ran = subprocess.run(
        [sys.executable, "docs/attacks.py", "--collect-only"], cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr
    exist, _ = script["read"](ran.stdout.split(script["BEGIN"])[1])
    listed, numbers = script["read"](script["PAGE"].read_text().split(script["BEGIN"])[1])
    assert sum(len(found) for found in exist.values()) > 20
    assert listed == exist, "docs/security.md is of other tests: run `python docs/attacks.py`"
    assert numbers.pop("all") == tuple(map(sum, zip(*numbers.values(), strict=True)))
    assert {area: (sum(found.values()),) * 2 for area, found in listed.items()} == numbers
