"""YAML that is made to exhaust memory or to confuse: one line with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from realgen.cli import ConfigError
from realgen.cli.tree import read_file
from tests.cli.conftest import run

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60))
CASES = {
    "aliases": (BOMB, r":\d+: more than 100,000 values; aliases multiply them"),
    "merges": (MERGES, r":\d+: more than 100,000 values; aliases multiply them"),
    "recursive list": ("a: 1\nb: &b [1, *b]\n", ":2: an alias stands inside its own value"),
    "recursive mapping": ("b: &b\n  c: *b\n", ":1: an alias stands inside its own value"),
    "recursive merge": ("b: &b\n  <<: *b\n", "nested too deep"),
    "deep": ("[" * 5000 + "]" * 5000, "nested too deep"),
    "digits": (
        "a: 1\nb: " + "9" * 5000,
        ":2: '9999999999999999999999999999999999999999' is too large; a number has at most 400",
    ),
    "bits": ("a: 18446744073709551616", ":1: '18446744073709551616' is too large; whole numbers have at most 64 bits"),
    "date": ("a: 2020-13-45", ":1: '2020-13-45' cannot be read as timestamp"),
    "tag": ("a: !!int x", ":1: 'x' cannot be read"),
    "sixtieths": ("a: 1" + ":1" * 300_000, ":1: '1:1:1:1:.*' is too large; a number has at most 400 digits"),
    "sixtieths with a point": ("a: 1" + ":1" * 300_000 + ".5", ":1: '1:1:1:1:.*' is too large"),
    "binary": ("a: 0b" + "1" * 10**6, ":1: '0b11111.*' is too large; a number has at most 400 digits"),
    "tag of another value": ("a: !!bool x", ":1: 'x' cannot be read as bool"),
    "tag of nothing": ("a: !!int ''", ":1: '' cannot be read as int"),
    "tag of no number": ("a: !!float ''", ":1: '' cannot be read as float"),
    "tag of no date": ("a: !!timestamp x", ":1: 'x' cannot be read as timestamp"),
    "null byte": ("a: 1\nb: \0", ":2: not valid YAML: a control character"),
    "key": ("a: 1\n? [b]\n: 1", ":2: a key must be text"),
    "itself": ("part_file: bad.yaml", r"bad\.yaml names itself\. \(.*bad\.yaml:1\)"),
}


@pytest.mark.attack("files", "YAML made to exhaust memory or to confuse")
@pytest.mark.parametrize(("text", "message"), CASES.values(), ids=list(CASES))
def test_hostile_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as found:
        read_file(tmp_path / "bad.yaml")
    assert str(found.value).removeprefix("part_file: ").startswith(str(tmp_path / "bad.yaml"))
    assert len(str(found.value).splitlines()) == 1


@pytest.mark.attack("files", "YAML that is not UTF-8")
@pytest.mark.parametrize("text", [b"a: 1\nb: \xff", "a: 1".encode("utf-16"), "a: \u00e9\n".encode("latin-1")])
def test_other_encodings_are_named(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml:\d: not UTF-8: the byte 0x"):
        read_file(tmp_path / "bad.yaml")


@pytest.mark.parametrize("argument", ["--model.group_size=" + "9" * 5000, "--model={a: " + "9" * 5000 + "}"])
def test_hostile_arguments_are_refused(argument: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--config=toy.yaml", argument]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_part_that_names_itself(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "part.yaml").write_text(
        "{class_path: tests.helpers.cli_toys.Weighted, init_args: {rewards: {a: part.yaml}}}"
    )
    assert run(["--config=toy.yaml", "--model.reward=part.yaml"]) == 1
    assert "names itself" in capsys.readouterr().err


def test_aliases_are_still_written_out(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 18446744073709551615}")
    assert read_file(tmp_path / "good.yaml").plain()["c"] == {"x": 1, "y": 2**64 - 1}
