"""``python -m realgen.compare`` on run folders, as a user calls it."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from realgen.compare import main
from tests.helpers.run_folders import write_run

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Two seeds of a control, and three of a run that is better by 0.2 everywhere, but has a worse alignment."""
    made = []
    for name, lr, seeds, gain in (("control", 1e-3, 2, 0.0), ("better", 2e-3, 3, 0.2)):
        for seed in range(seeds):
            reward = [0.1 * n + 0.01 * seed + gain for n in range(4)]
            rows = {0: {"reward": [0.0] * 4, "alignment": [0.9] * 4, "same": [0.5] * 4}}
            rows[10] = {"reward": reward, "alignment": [0.9 - gain / 2] * 4, "same": [0.5] * 4}
            whole = {i: {"kid": 2.0 - gain * i / 10 + 0.1 * seed} for i in (0, 10)}
            metrics = {"kid": {"class_path": "realgen.metrics.KID"}}
            made.append(write_run(tmp_path / f"{name}-{seed}", rows, lr=lr, seed=seed, whole=whole, metrics=metrics))
    return [str(folder) for folder in made]


def test_the_tables_say_who_is_better_and_how_sure(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(folders) == 0
    out = capsys.readouterr().out
    assert "A  2 runs, seeds 0, 1" in out
    assert "B  3 runs, seeds 0, 1, 2" in out
    assert "model.optimizer.lr: 0.002" in out
    assert "at 1,000 images drawn in training each (iterations 10, 10 | 10, 10, 10)" in out
    assert "at 100 seconds of training each" in out
    lines = [line.split() for line in out.splitlines()]
    reward = next(words for words in lines if words[:1] == ["reward"])
    assert reward[1:4] == ["0.155", "0.360", "+0.205"]
    assert reward[-1] == "better"
    alignment = next(words for words in lines if words[:1] == ["alignment"])
    assert alignment[1:] == ["0.900", "0.800", "-0.100", "[-0.100,", "-0.100]", "worse"]
    same = next(words for words in lines if words[:1] == ["same"])
    assert same[-3:] == ["not", "told", "apart"]
    kid = "kid (lower is better) 2.050 (2.000 to 2.100) 1.900 (1.800 to 2.000) -0.150"
    assert any(" ".join(words) == kid for words in lines)
    assert "intervals: 95 %, of each metric on its own" in out
    assert "seconds are comparable only on the same machine" in out
    assert "one seed" not in out
    assert "interpolated" not in out


def test_names_of_runs_and_metrics_are_no_markup_and_move_no_cursor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metric, made = "[red]m[/b]\x1b[2J", []
    for seed, name in enumerate(("[red]x[/b]\x1b[2J", "[/] y\x07")):
        rows = {0: {metric: [0.0] * 4}, 10: {metric: [0.1 * (seed + n) for n in range(4)]}}
        made.append(
            str(
                write_run(
                    tmp_path / name, rows, lr=1e-3 * (1 + seed), seed=0, whole={0: {metric: 1.0}, 10: {metric: 2.0}}
                )
            )
        )
    assert main(made) == 0
    out = capsys.readouterr().out
    assert r"[red]x[/b]\x1b[2J" in out
    assert r"[/] y\x07" in out
    assert out.count(r"[red]m[/b]\x1b[2J") >= 2
    assert not set("\x1b\x07") & set(out)


def test_a_single_seed_is_said(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(folders[1:]) == 0
    out = capsys.readouterr().out
    assert "one seed in A: there the intervals cover the choice of prompts" in out
    assert "better, of one seed" in out
    assert "worse, of one seed" in out


def test_what_is_interpolated_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = write_run(tmp_path / "short", {i: {"reward": [0.5] * 4} for i in (0, 3)})
    long = write_run(tmp_path / "long", {i: {"reward": [0.5] * 4} for i in (0, 4)}, lr=2e-3)
    assert main([str(short), str(long)]) == 0
    out = capsys.readouterr().out
    assert "at 300 images drawn in training each (iterations 3 | 3)" in out
    assert out.count("a run that stood between two validations is interpolated") == 2


def test_json_holds_all_of_it(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*folders, "--json", "--confidence=0.9", "--resamples=500"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["prompts"], found["left_out"], found["confidence"]) == (4, 0, 0.9)
    assert [[run["seed"] for run in group["runs"]] for group in found["groups"]] == [[0, 1], [0, 1, 2]]
    assert [section["price"] for section in found["sections"]] == ["images", "seconds"]
    reward = found["sections"][0]["metrics"][0]
    assert reward["seeds"] == [pytest.approx([0.15, 0.16]), pytest.approx([0.35, 0.36, 0.37])]
    assert reward["differences"][0]["value"] == pytest.approx(0.205)
    assert reward["verdicts"] == ["better"]


def test_one_run_alone_is_compared_with_its_beginning(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([folders[2]]) == 0
    out = capsys.readouterr().out
    assert "validation: first" in out
    assert f"{folders[2]}, iteration 10" in out
    lines = [line.split() for line in out.splitlines()]
    reward = next(words for words in lines if words[:1] == ["reward"])
    assert reward[1:4] == ["0.000", "0.350", "+0.350"]
    assert "better, of one seed" in out
    assert main(folders[:2]) == 0  # two seeds of one config
    assert "B  2 runs, seeds 0, 1" in capsys.readouterr().out


def test_a_folder_stands_for_the_runs_in_it_however_long_they_went_on(
    folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    parent = Path(folders[0]).parent
    config = Path(folders[1]) / "config.yaml"
    config.write_text(config.read_text() + "trainer: {max_epochs: 9, check_val_every_n_epoch: 9}\n")
    assert main([str(parent)]) == 0
    out = capsys.readouterr().out
    assert "A  3 runs" in out  # better-0 to better-2, by name
    assert "B  2 runs" in out


def test_the_run_whose_prompts_differ_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {0: {"reward": [0.0] * 4}, 1: {"reward": [0.1, 0.2, 0.3, 0.4]}}
    runs = [write_run(tmp_path / name, rows, lr=lr) for name, lr in (("a", 1.0), ("b", 2.0))]
    fewer = {0: {"reward": [0.0] * 3}, 1: {"reward": [0.1, 0.2, 0.3]}}
    runs.append(write_run(tmp_path / "fewer", fewer, lr=3.0, prompts=("a cat", "a dog", "the sea")))
    assert main([str(run) for run in runs]) == 0
    assert f"3 prompts that all have; 1 that only some have are left out ({tmp_path}/fewer lack some)" in (
        capsys.readouterr().out
    )
    odd = write_run(tmp_path / "odd", rows, lr=4.0, prompts=("w", "x", "y", "z"))
    assert main([str(run) for run in (odd, *runs)]) == 1
    assert f"in common; {odd} differs most" in capsys.readouterr().err


def test_the_page_and_the_tables_for_a_paper(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(folders[0]).parent / "pages" / "comparison.html"
    assert main([*folders, "--csv", f"--output={page}"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    (row,) = [row for row in rows if (row["price"], row["metric"], row["group"]) == ("images", "reward", "B")]
    numbers = [float(row[name]) for name in ("at", "seeds", "value", "change", "change_low")]
    assert numbers[:4] == pytest.approx([1000, 3, 0.36, 0.205])
    assert 0 < numbers[4] < 0.205
    assert [row["change"] for row in rows if row["group"] == "A"] == [""] * 8
    text = page.read_text(encoding="utf-8")
    assert "reward: A from 0 to 0.155; B from 0 to 0.36" in text
    assert "Never rewarded at equal seconds" in text
    assert "B: model.optimizer.lr 0.002" in text
    assert main([*folders, "--latex"]) == 0
    out = capsys.readouterr().out
    assert r"reward & 0.155 & 0.360 & +0.205" in out
    assert out.count(r"\end{tabular}") == 4


def test_one_prompt_is_no_evidence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        write_run(tmp_path / str(level), {i: {"reward": [level * i]} for i in (0, 1)}, lr=level, prompts=("a cat",))
        for level in (0.1, 0.9)
    ]
    assert main([str(run) for run in runs]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    words = next(words for words in lines if words[:1] == ["reward"])
    assert words == ["reward", "0.100", "0.900", "+0.800", "not", "told", "apart"]
    assert main([*(str(run) for run in runs), "--json"]) == 0
    (difference,) = json.loads(capsys.readouterr().out)["sections"][0]["metrics"][0]["differences"]
    assert (difference["low"], difference["high"]) == (None, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "error: nowhere is no folder with config.yaml"),
        (["--confidence=2"], "error: confidence must lie between 0 and 1"),
        (["--resamples=0"], "error: resamples must be at least 1, got 0"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*folders, *arguments]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith(message)
    assert (shown.err.count("\n"), shown.out) == (1, "")


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys, atexit\natexit.register(lambda: print('TORCH', 'torch' in sys.modules))\n"
        "from realgen.compare import main\nmain(['--help'])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "python -m realgen.compare" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "TORCH False"


@pytest.mark.parametrize(
    ("place", "line", "message"),
    [
        ("pictures/iteration-000000/pictures.jsonl", {"prompt": "a", "key": "0"}, "line 1: file is missing"),
        (
            "pictures/iteration-000000/pictures.jsonl",
            {"prompt": 1, "key": "0", "file": "a"},
            "line 1: prompt is missing",
        ),
        ("rewrites/validation-000000.jsonl", {"prompt": "a", "text": "b", "reward": "c"}, "line 1: reward is missing"),
        ("rewrites/validation-000000.jsonl", ["a"], "line 1: prompt is missing"),
        ("summary.json", {"before": 0}, "is no summary of a run: TypeError"),
    ],
)
def test_a_folder_of_another_hand_is_refused_by_the_file(
    place: str, line: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", {i: {"reward": [0.5]} for i in (0, 1)}, prompts=("a cat",))
    (run / place).parent.mkdir(parents=True, exist_ok=True)
    (run / place).write_text(json.dumps(line))
    assert main([str(run), "--resamples=1", f"--output={tmp_path / 'page.html'}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {run / place}")
    assert message in error
