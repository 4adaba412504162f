from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from realgen import progress
from realgen.data import PromptTable
from realgen.data.make_shards import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> int:
    return main(["--output", "data/train", *arguments])


def write_lines(path: str, rows: list[Any]) -> None:
    Path(path).write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def prompts(pattern: str = "data/train") -> list[str]:
    table = PromptTable([str(path) for path in sorted(Path(pattern).glob("*.tar"))])
    return [table[row].prompt for row in range(len(table))]


def test_text_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("prompts.txt").write_bytes("\ufeffa cat\n\n  eine Kätzin \r\na cat\n \na dog".encode())
    assert run("--input", "prompts.txt", "--samples_per_shard", "3") == 0
    assert sorted(path.name for path in Path("data/train").iterdir()) == ["train-000000.tar", "train-000001.tar"]
    assert prompts() == ["a cat", "eine Kätzin", "a cat", "a dog"]
    out = capsys.readouterr().out
    assert "wrote 4 prompts, 0 with an image, as data/train/train-000000.tar to train-000001.tar" in out
    assert "empty lines, skipped: 2" in out
    assert "lines that repeat a prompt, and were kept: 1 (line 4 repeats line 1)" in out


def test_jsonl_with_images(
    folder: Path, make_image: Callable[..., Image.Image], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "real_images/cats").mkdir(parents=True)
    make_image().save("real_images/cats/1.png")
    write_lines("a.jsonl", [{"prompt": "a cat", "image": "cats/1.png", "light": "soft"}])
    assert run("--input", "a.jsonl", "--images", "real_images") == 0
    assert "wrote 1 prompts, 1 with an image, as data/train/train-000000.tar\n" in capsys.readouterr().out
    batch = PromptTable(["data/train/train-000000.tar"], real_images=True).batch([0])
    assert batch.metadata == ({"light": "soft"},)
    assert batch.images is not None
    assert batch.images.shape == (1, 3, 6, 4)


def test_existing_shards(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("prompts.txt").write_text("a cat\n")
    assert run("--input", "prompts.txt") == 0
    assert run("--input", "prompts.txt") == 1
    assert "already holds 1 shards" in capsys.readouterr().err
    Path("prompts.txt").write_text("a dog\n")
    assert run("--input", "prompts.txt", "--overwrite") == 0
    assert prompts() == ["a dog"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"prompt": "a"}\n\n{"prompt": "b"\n', "a.jsonl, line 3: not JSON: "),
        (b"[" * 100_000, "a.jsonl, line 1: not JSON: "),
        (b'{"prompt": "a"}\n[1]\n', "a.jsonl, line 2: expected an object with a 'prompt', got list"),
        (b'{"prompt": "a"}\n{"prompt": ""}\n', "a.jsonl, line 2: sample 1: 'prompt' must be a text that is not empty"),
        (b'{"prompt": "a"}\n{"prompt": "\xff"}\n', "a.jsonl, line 2: 'utf-8' codec can't decode"),
        (b'{"prompt": "a", "image": "x.png"}\n', "a.jsonl, line 1: sample 0: the image photos/x.png does not exist"),
        (b'{"prompt": "a", "image": "bad.png"}\n', "line 1: sample 0: photos/bad.png: the image cannot be decoded"),
        (b'{"prompt": "a", "image": 3}\n', "a.jsonl, line 1: 'image' must be a path, got 3"),
        (b"\n\n", "error: samples must hold at least one prompt"),
    ],
)
def test_errors_name_the_line_and_leave_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    (folder / "photos").mkdir()
    (folder / "photos/bad.png").write_bytes(b"no image")
    (folder / "a.jsonl").write_bytes(content)
    assert run("--input", "a.jsonl", "--images", "photos") == 1
    assert message in capsys.readouterr().err
    assert not (folder / "data/train").exists()


def test_all_mistakes_of_a_file_are_told_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "photos").mkdir()
    rows: list[Any] = [{"prompt": "good"}, [1], {"prompt": ""}, {"prompt": "a", "image": "x.png"}, {"caption": "b"}]
    write_lines("a.jsonl", [*rows, *[3] * 40])
    assert run("--input", "a.jsonl", "--images", "photos") == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: a.jsonl, line 2: expected an object")
    assert lines[1].startswith("a.jsonl, line 3: sample 1: 'prompt' must be a text")
    assert lines[2].startswith("a.jsonl, line 4: sample 2: the image photos/x.png does not exist")
    assert lines[3] == "a.jsonl, line 5: it has no 'prompt', but caption; see --prompt_column"
    assert (len(lines), lines[-1]) == (21, "... and 24 more")
    assert not (folder / "data/train").exists()


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_tables_by_the_names_of_their_columns(
    folder: Path, make_image: Callable[..., Image.Image], suffix: str
) -> None:
    make_image().save("1.png")
    if suffix == "jsonl":
        write_lines("a.jsonl", [{"text": "a cat, sitting", "file": "1.png", "light": "soft"}, {"text": "a\ndog"}])
    else:
        with Path(f"a.{suffix}").open("w", newline="", encoding="utf-8-sig") as file:
            table = csv.writer(file, delimiter={"csv": ",", "tsv": "\t"}[suffix])
            table.writerows([["file", "text", "light"], ["1.png", "a cat, sitting", "soft"], ["", "a\ndog", ""]])
    columns = ["--prompt_column", "text", "--image_column", "file"]
    assert run("--input", f"a.{suffix}", "--images", ".", *columns) == 0
    table = PromptTable(["data/train/train-000000.tar"])
    assert [(table[row].prompt, table[row].metadata) for row in range(2)] == [
        ("a cat, sitting", {"light": "soft"}),
        ("a\ndog", {}),
    ]


def test_what_is_wrong_with_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.csv").write_text("caption,light\na cat,soft\n")
    assert run("--input", "a.csv") == 1
    assert "error: a.csv: it has no 'prompt', but caption, light; see --prompt_column" in capsys.readouterr().err
    Path("a.csv").write_text("prompt\na cat, sitting\na dog\n")
    assert run("--input", "a.csv") == 1
    assert capsys.readouterr().err == "error: a.csv, line 2: it has more cells than the first line has names\n"
    # Read on, what follows the open quote would be one cell: fewer prompts, and nobody told.
    for odd, line in (('a fox\n"a cat\na dog\na hen\n', 3), ('"a fox"\n\n"a\ncat" sits\na dog\n', 3)):
        Path("a.csv").write_text(f"prompt\n{odd}")
        assert run("--input", "a.csv") == 1
        error = capsys.readouterr().err
        assert error.startswith(f'error: a.csv, line {line}: a quote (") of the row that begins here is not closed, or')
        assert not (folder / "data/train").exists()
    csv.field_size_limit(131_072)  # Python's own, which reading a run's tables raises
    Path("a.csv").write_text(f"prompt\n{'a' * 200_000}\n")
    assert run("--input", "a.csv") == 1
    assert "field larger than field limit" in capsys.readouterr().err
    Path("a.parquet").write_bytes(b"PAR1")
    assert run("--input", "a.parquet") == 1
    needed = "cannot be read as Parquet" if find_spec("pyarrow") else "pip install 'realgen[parquet]'"
    assert needed in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "a.jsonl"], "line 1: it has an 'image', but --images does not say where images are"),
        (["--input", "a.xls"], "--input must end in .txt, .jsonl, .csv, .tsv, .parquet, got 'a.xls'"),
        (["--input", "b.txt"], "--input b.txt does not exist"),
        (["--input", "a.jsonl", "--images", "photos"], "--images photos is not a folder"),
        (["--input", "a.jsonl", "--samples_per_shard", "0"], "samples_per_shard must be at least 1, got 0"),
    ],
)
def test_arguments_that_cannot_be(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    write_lines("a.jsonl", [{"prompt": "a", "image": "x.png"}])
    assert run(*arguments) == 1
    assert message in capsys.readouterr().err


def test_the_command_starts_without_torch(folder: Path) -> None:
    code = (
        "import sys; from realgen.data import make_shards\n"
        "try: make_shards.main(['--help'])\n"
        "except SystemExit: assert 'torch' not in sys.modules and 'lightning' not in sys.modules"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--samples_per_shard N" in done.stdout


def test_a_place_that_cannot_be_written_is_told_in_a_line(tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a cat\n")
    (tmp_path / "taken").write_text("a file where a folder should be")
    assert main(["--input", str(tmp_path / "prompts.txt"), "--output", str(tmp_path / "taken" / "shards")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert str(tmp_path / "taken") in line


def test_a_long_file_is_told_of_every_minute(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    (folder / "long.txt").write_text("".join(f"prompt {number}\n" for number in range(20_000)))
    assert main(["--input", str(folder / "long.txt"), "--output", str(folder / "long")]) == 0
    assert re.search(r"^at work for 0 min: (reading prompts|lines \d+/20000)$", capsys.readouterr().err, re.MULTILINE)
