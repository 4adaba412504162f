"""One file of numbers over all starts of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from realgen.callbacks.metrics_csv import MetricsCSV


class Run:
    """What Lightning does with the logger of a run: ``train`` and ``validate`` log one row each."""

    def __init__(self, folder: Path, at: int, *, fresh: bool = False) -> None:
        self.iteration = at
        self.log = MetricsCSV(folder, iteration=lambda: self.iteration, fresh=fresh)

    def train(self, loss: float) -> None:
        self.iteration += 1
        self.log.log_metrics({"loss": loss, "iteration": float(self.iteration)}, step=self.iteration)

    def validate(self, kid: float) -> None:
        self.log.log_metrics({"val/kid": kid}, step=self.iteration)


def lines(folder: Path) -> list[str]:
    return (folder / "csv" / "version_0" / "metrics.csv").read_text().splitlines()


def whole_run(folder: Path) -> list[str]:
    run = Run(folder, 0, fresh=True)
    run.validate(3.0)
    for loss in (0.5, 0.4, 0.3):
        run.train(loss)
    run.validate(2.0)
    return lines(folder)


def test_every_row_has_its_iteration(tmp_path: Path) -> None:
    assert whole_run(tmp_path) == [
        "iteration,loss,step,val/kid",
        "0.0,,0,3.0",
        "1.0,0.5,1,",
        "2.0,0.4,2,",
        "3.0,0.3,3,",
        "3.0,,3,2.0",
    ]


@pytest.mark.parametrize("checkpoint", [1, 2, 3])
def test_a_resumed_run_replaces_what_it_does_once_more(checkpoint: int, tmp_path: Path) -> None:
    expected = whole_run(tmp_path)
    run = Run(tmp_path, checkpoint)
    for loss in (0.5, 0.4, 0.3)[checkpoint:]:
        run.train(loss)
    run.validate(2.0)
    assert lines(tmp_path) == expected


@pytest.mark.parametrize("cut", [1, 5, 9])
def test_a_row_that_a_kill_has_cut_is_dropped(cut: int, tmp_path: Path) -> None:
    expected = whole_run(tmp_path)
    path = tmp_path / "csv" / "version_0" / "metrics.csv"
    path.write_bytes(path.read_bytes()[:-cut])
    Run(tmp_path, 3).validate(2.0)
    assert lines(tmp_path) == expected


def test_rows_of_a_start_that_left_no_checkpoint_are_dropped(tmp_path: Path) -> None:
    whole_run(tmp_path)
    Run(tmp_path, 0, fresh=True).train(0.9)
    assert lines(tmp_path) == ["iteration,loss,step", "1.0,0.9,1"]


def test_a_module_that_does_not_count_is_placed_by_its_steps(tmp_path: Path) -> None:
    for first, last in ((0, 4), (2, 6)):
        log = MetricsCSV(tmp_path, iteration=lambda: 0, fresh=first == 0)
        for step in range(first, last):
            log.log_metrics({"loss": step / 10}, step=step)
    assert [line.split(",")[1:] for line in lines(tmp_path)[1:]] == [[str(n / 10), str(n)] for n in range(6)]


def test_a_new_column_comes_in_its_alphabetical_place(tmp_path: Path) -> None:
    run = Run(tmp_path, 0, fresh=True)
    run.train(0.5)
    run.log.log_metrics({"accuracy": 0.25}, step=1)
    assert lines(tmp_path) == ["accuracy,iteration,loss,step", ",1.0,0.5,1", "0.25,1.0,,1"]
