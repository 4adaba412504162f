"""What the harness of ``make endurance`` compares, counts and prints; its runs take minutes and are no tests."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from experiments.endurance.comparing import differences
from experiments.endurance.faults import told
from experiments.endurance.kills import Case
from experiments.endurance.moments import Moment, choose
from experiments.endurance.processes import Ended, Process
from experiments.endurance.report import show
from realgen.checkpoint_files import KEYS


def save_checkpoint(run: Path, weight: float, seconds: float) -> None:
    """Write a checkpoint; counters of Lightning that depend on the moment of a save are as many as ``seconds``."""
    weights, values = {"w": torch.tensor([weight, float("nan")])}, {"loops": {"batches": seconds}, "seconds": seconds}
    required = dict.fromkeys(KEYS, 0)
    torch.save({**required, "state_dict": weights, "callbacks": {}, **values}, run / "checkpoints" / "last.ckpt")


def write_run(folder: Path, *, seconds: float = 1.0) -> Path:
    """Write one file of each kind that a run leaves."""
    media = folder / "wandb" / "offline-run-1-a" / "files" / "media" / "images"
    for made in (folder / "checkpoints", media):
        made.mkdir(parents=True)
    save_checkpoint(folder, 1.0, seconds)
    save_file({"w": torch.ones(2)}, folder / "lora.safetensors")
    rows = f"1,0.5,{seconds},{seconds}\n2,0.6,{seconds},\n"
    (folder / "metrics.csv").write_text(f"iteration,reward,seconds/update,seconds/detector_a\n{rows}")
    (folder / "summary.json").write_text(json.dumps({"iteration": 2, "values": {"kid": 0.25}}))
    (folder / "results.md").write_text(f"made 2026-11-30 10:00:0{seconds:.0f}\n")
    took = f"{seconds:.0f} seconds"
    page = f"<h1>iteration 2, {took} of training</h1>{took} in all <svg>{seconds}</svg> 0.5"
    (folder / "report.html").write_text(page)
    (folder / "grid.png").write_bytes(b"picture")
    (media / f"samples_{seconds:.0f}_0123abcd.png").write_bytes(b"picture")
    return folder


def test_runs_that_differ_in_time_alone_are_equal(tmp_path: Path) -> None:
    assert differences(write_run(tmp_path / "a"), write_run(tmp_path / "b", seconds=2.0)) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda run: (run / "grid.png").unlink(), "grid.png: missing"),
        (lambda run: (run / "grid.png").write_bytes(b"pictures"), "grid.png: other bytes"),
        (lambda run: (run / "last.partial").write_text(""), "last.partial: left over"),
        (lambda run: (run / "checkpoints" / "last.ckpt").write_bytes(b"PK"), "checkpoints/last.ckpt: "),
        (lambda run: save_checkpoint(run, 1.0 + 2**-23, 1.0), "checkpoints/last.ckpt: /state_dict/w: another tensor"),
        (
            lambda run: save_file({"w": torch.zeros(2)}, run / "lora.safetensors"),
            "lora.safetensors: /w: another tensor",
        ),
        (
            lambda run: (run / "metrics.csv").write_text("iteration,reward\n1,0.5\n1,0.5\n2,0.6\n"),
            "metrics.csv: : 2 entries became 3",
        ),
        (
            lambda run: (run / "metrics.csv").write_text("iteration,reward\n1,0.5\n2,0.60001\n"),
            "metrics.csv: /1/reward: 0.6 became 0.60001",
        ),
        (
            lambda run: (run / "metrics.csv").write_text("iteration,reward\n1,0.5\n2,\n"),
            "metrics.csv: /1/reward: missing",
        ),
        (
            lambda run: (run / "summary.json").write_text('{"iteration": 2, "values": {"kid": 0.5}}'),
            "summary.json: /values/kid: 0.25 became 0.5",
        ),
        (
            lambda run: (run / "report.html").write_text((run / "report.html").read_text().replace("0.5", "0.6")),
            "report.html: /0: <h1>iteration 2, CLOCK</h1>CLOCK 0.5 became <h1>iteration 2, CLOCK</h1>CLOCK 0.6",
        ),
        (lambda run: (run / "results.md").write_text("made\n"), "results.md: /0: made CLOCK became made"),
        (
            lambda run: next(run.glob("wandb/**/*.png")).unlink(),
            "wandb media samples 2cea274d: missing",
        ),
    ],
)
def test_every_other_difference_is_told(change: Callable[[Path], object], line: str, tmp_path: Path) -> None:
    straight, other = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    change(other)
    assert any(each.startswith(line) for each in differences(straight, other))


def test_moments_repeat_and_lie_within_the_run() -> None:
    trace = [10.0, 10.5, 13.0, 20.0]  # three changes and the end
    moments = [choose(trace, random.Random(number)) for number in range(200)]
    assert moments == [choose(trace, random.Random(number)) for number in range(200)]
    assert {moment.event for moment in moments} == {0, 1, 2}
    assert {moment.number for moment in moments} == {signal.SIGKILL, signal.SIGTERM}
    assert all(trace[moment.event] + moment.delay <= trace[moment.event + 1] + 0.01 for moment in moments)


def test_a_process_is_killed_before_its_change_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "writer.py").write_text(
        "import pathlib, sys\n"
        "for n in '012':\n"
        "    pathlib.Path(sys.argv[1], n).write_text(n)\n"
        "print('done')\n"
        "sys.exit(3)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run = tmp_path / "run"
    run.mkdir()
    trace = tmp_path / "trace.json"
    ended = Process(["writer", str(run)], run, trace=trace).finish()
    assert (ended.code, ended.output) == (3, "done\n")
    assert len(json.loads(trace.read_text())) == 4
    (run / "2").unlink()
    ended = Process(["writer", str(run)], run, moment=Moment(2, 0.0, signal.SIGKILL)).finish()
    assert ended.code == -signal.SIGKILL
    assert sorted(path.name for path in run.iterdir()) == ["0", "1"]


@pytest.mark.parametrize(
    ("code", "output", "faults"),
    [
        (1, "iteration 3\nerror: /run/a.ckpt: No space left on device\n", 0),
        (0, "", 1),
        (1, "error: No space left on device\n", 1),
        (1, "error: /run/a.ckpt: cannot write\n", 1),
        (1, "error: /run: No space left\n" + "more\n" * 9, 1),
        (1, "Traceback\nerror: /run: No space left\n", 1),
    ],
)
def test_the_last_words_about_a_disk(code: int, output: str, faults: int) -> None:
    assert len(told(Ended(code, output), Path("/run"), "No space left")) == faults


def test_rows_of_the_table_take_the_place_of_older_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table -->\n<!-- end of the table -->\nafter\n")
    show([Case("killed", "0"), Case("killed", "1", ["lost"]), Case("disk", "full")], page, "2026-11-30")
    show([Case("killed", "0")], page, "2026-12-01")
    assert page.read_text() == (
        "before\n<!-- table -->\n| what was done | cases | as it should be | on |\n| --- | ---: | ---: | --- |\n"
        "| killed | 1 | 1 | 2026-12-01 |\n| disk | 1 | 1 | 2026-11-30 |\n<!-- end of the table -->\nafter\n"
    )
    assert "killed" in capsys.readouterr().out
