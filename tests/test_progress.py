"""What a command shows while it works, on terminals and in logs."""

from __future__ import annotations

import re
import sys
import time

import pytest

from realgen import progress
from realgen.progress import ProgressBar, at_work, now_doing


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.2)


def wait_for_line(capsys: pytest.CaptureFixture[str], pattern: str) -> None:
    seen, end = "", time.monotonic() + 20
    while time.monotonic() < end:
        seen += capsys.readouterr().err
        if re.search(pattern, seen):
            return
        time.sleep(0.02)
    raise AssertionError(seen)


def test_without_a_terminal_a_line_says_what_is_done(often: None, capsys: pytest.CaptureFixture[str]) -> None:
    with at_work("loading"):
        wait_for_line(capsys, r"at work for 0 min: loading\n")
        with ProgressBar(4, "drawing", done=1) as bar:
            bar.update(2)
            wait_for_line(capsys, r"at work for 0 min: drawing 3/4\n")
        now_doing("scoring")
        wait_for_line(capsys, r"at work for 0 min: scoring\n")
    capsys.readouterr()
    time.sleep(0.5)
    assert capsys.readouterr().err == ""


def test_a_line_of_its_own_puts_the_next_one_off(monkeypatch: pytest.MonkeyPatch) -> None:
    with at_work("loading"):
        work = progress._work.get()
        assert work is not None
        before = work.last_line
        now_doing("one")
        assert work.last_line == before
        now_doing("two", printed=True)
        assert work.last_line > before


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID", "LOCAL_RANK"])
def test_other_processes_are_silent(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "1")
    with at_work("loading"):
        assert progress._work.get() is None


@pytest.mark.parametrize(("term", "shown"), [("xterm", True), ("dumb", False), ("unknown", False)])
def test_bars_are_for_terminals_that_can_show_them(
    term: str, shown: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", term)
    with ProgressBar(2, "drawing") as bar:
        bar.update(2)
        assert bar.n == 2
    assert ("drawing: 100%" in capsys.readouterr().err) is shown


def test_a_hidden_bar_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(2, hidden=True) as bar:
        bar.update()
    assert bar.n == 1
    assert capsys.readouterr().err == ""
