from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch import Callback

from realgen.callbacks import IterationProgress
from realgen.modules import GRPOModule
from tests.helpers.toy_grpo import Prompts, module, trainer


def fit(folder: Path, progress: IterationProgress, **settings: object) -> GRPOModule:
    trained = module(updates_per_epoch=2)
    lightning = trainer(folder, callbacks=[progress], enable_progress_bar=True, **settings)
    lightning.fit(trained, Prompts())
    return trained


def test_lines_where_there_is_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, IterationProgress(every_n_iterations=3), limit_val_batches=0)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("iteration")]
    form = (
        r"iteration {}/4  reward -?\d\.\d{{3}}  green -?\d\.\d{{3}}  red -?\d\.\d{{3}}  \d+\.\d s/iteration  \d+ s left"
    )
    assert len(lines) == 3
    for number, line in zip((1, 3, 4), lines, strict=True):
        assert re.fullmatch(form.format(number), line)


def test_bars_on_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    trained = fit(tmp_path, IterationProgress())
    shown = capsys.readouterr().err
    assert re.search(r"iteration: 100%\|.*\| 4/4 .*reward=\d\.\d{3}, green=\d\.\d{3}, red=\d\.\d{3}", shown)
    assert "update: 100%" in shown
    assert "validation: 100%" in shown
    assert trained.progress is None


def test_a_terminal_without_cursor_gets_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    fit(tmp_path, IterationProgress())
    shown = capsys.readouterr()
    assert "iteration 4/4" in shown.out
    assert not set("\x1b\r") & set(shown.err + shown.out)


def test_every_phase_is_named_between_the_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("realgen.callbacks.progress.now_doing", lambda text, printed=False: said.append(text))
    fit(tmp_path, IterationProgress())
    assert {"after iteration 0: update 2/2", "after iteration 4: validation 2/2"} <= set(said), said


class Clock(Callback):
    """A clock on which an iteration takes 3 seconds, and each of two validation batches 10."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def on_train_batch_start(self, *args: object) -> None:
        self.now += 3

    def on_validation_batch_end(self, *args: object) -> None:
        self.now += 10


@pytest.mark.parametrize("terminal", [True, False])
def test_a_validation_is_no_part_of_the_time_of_an_iteration(
    terminal: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr("realgen.callbacks.progress.time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr("tqdm.std.time", clock)
    callbacks = [clock, IterationProgress(every_n_iterations=4)]
    trainer(tmp_path, callbacks=callbacks, enable_progress_bar=True, max_epochs=2).fit(module(), Prompts())
    output = capsys.readouterr()
    lines = [line for line in output.out.splitlines() if line.startswith("iteration")]
    if terminal:
        assert re.findall(r"4/4 \[\S+ +(\S+),", output.err)[-1] == "3.00s/it"
        assert not lines
    else:
        assert [line.split("  ")[-2:] for line in lines] == [
            ["3.0 s/iteration", "9 s left"], ["iteration 2: validation"],
            ["3.0 s/iteration", "0 s left"], ["iteration 4: validation"],
        ]  # fmt: skip


def test_the_bar_goes_on_at_the_resumed_iteration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    trained = module()
    trained.iteration = 2
    progress = IterationProgress()
    trainer(tmp_path, callbacks=[progress], enable_progress_bar=True, max_epochs=3, limit_val_batches=0).fit(
        trained, Prompts()
    )
    shown = capsys.readouterr().err
    assert re.search(r"iteration:\s+33%\|.*\| 2/6", shown)


def test_the_phase_bar_follows_any_order_of_phases(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = IterationProgress()
    for phase, done in (("rollout", 1), ("rollout", 4), ("update", 1), ("rollout", 2), ("rollout", 1), ("rollout", 4)):
        progress.show_phase(phase, done, 4)
    shown = capsys.readouterr().err
    assert shown.count("rollout: 100%") == 2
    assert "update:  25%" in shown


def test_a_silenced_bar_is_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = IterationProgress(every_n_iterations=1)
    progress.disable()
    fit(tmp_path, progress, limit_val_batches=0)
    assert "iteration" not in capsys.readouterr().out
    progress.enable()
    fit(tmp_path, progress, limit_val_batches=0)
    assert "iteration 4/4" in capsys.readouterr().out


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="every_n_iterations must be at least 1, got 0"):
        IterationProgress(every_n_iterations=0)
