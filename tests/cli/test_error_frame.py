"""Output that a terminal cannot show must not end a command, and nobody else's text may move its cursor."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys

import pytest

from realgen.cli.error_frame import run_command


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", b"^ ?"), ("latin-1", b"^ \xe9"), ("utf-8", "↑ é".encode())])
def test_an_arrow_on_a_terminal_without_arrows(encoding: str, shown: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    assert run_command(lambda: print("↑ é") or 0) == 0
    sys.stdout.flush()
    assert raw.getvalue() == shown + os.linesep.encode()


def test_an_error_writes_control_characters_out(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise ValueError("no file \x1b[2J\x07name")

    assert run_command(command) == 1
    assert capsys.readouterr().err == "error: no file \\x1b[2J\\x07name\n"


@pytest.mark.slow
@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_a_command_in_a_process_of_its_own(variables: dict[str, str]) -> None:
    code = "from realgen.cli.error_frame import run_command; run_command(lambda: print('\\u2191 better') or 0)"
    environment = {**os.environ, **variables}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert found.stdout.strip() in (b"^ better", "↑ better".encode())
    assert found.stderr == b""


def test_a_log_that_cannot_be_written_is_no_second_error(capsys: pytest.CaptureFixture[str]) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    log = logging.Logger("of a library")
    log.addHandler(logging.StreamHandler(Full()))

    def command() -> int:
        log.error("lost")
        return 0

    assert run_command(command) == 0
    assert capsys.readouterr().err == ""
