"""Every answer of an arena, kept in a file from the moment it comes."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from io import FileIO
from pathlib import Path

from realgen.benchmark.arena.result import COUNTS, Answer
from realgen.given_files import parse_json

_FIELDS = {field.name for field in fields(Answer)}
_CHOICES = {"compare": ("first", "second", "tie", None), "single": ("real", "fake", None)}


class AnswerLog:
    """Answers by their keys, in a JSONL file, which need not exist; of two with one key the later counts.

    Each answer is one line, brought to the disk before its worker asks the next question. What there is of a line that
    could not be written whole, because the disk is full or the run was killed, is cut off, at once or by the next run,
    so that no other line is written behind it; its question is asked again. ValueError if a line other than the last is
    no answer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._answers: dict[str, Answer] = {}
        self._end = self._load()
        self._file: FileIO | None = None

    def get(self, key: str) -> Answer | None:
        """Return the answer to a question; None if there is none."""
        return self._answers.get(key)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the file open, for this process alone; ValueError if another run writes to it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileIO(self.path, "ab") as file:  # without a buffer, which would keep what a full disk did not take
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(f"{self.path} is being written by another run; wait for it.") from error
            self._end = self._load()  # what another run has added meanwhile
            self._file = file
            file.truncate(self._end)
            if self._end and self.path.read_bytes()[self._end - 1] != ord("\n"):
                self._write(b"\n")  # all of the line was there but its end
            try:
                yield
            finally:
                self._file = None

    def append(self, answer: Answer) -> None:
        """Keep an answer on the disk; what was written of a line is taken back if it fails. Only inside ``writing``."""
        self._write(json.dumps(asdict(answer), ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        self._answers[answer.key] = answer

    def _write(self, line: bytes) -> None:
        """Write all of it, or nothing."""
        if self._file is None:
            raise RuntimeError("answers are kept inside `with log.writing()`.")
        written = 0
        try:
            while written < len(line):
                written += self._file.write(line[written:])
            os.fsync(self._file.fileno())
        except OSError as error:
            try:
                self._file.truncate(self._end)
            except OSError:
                self._file = None  # nothing may be written behind half a line; the next run cuts it off
            raise OSError(
                f"{self.path}: an answer could not be written ({error.strerror}). All answers before it are kept; when "
                "there is room, run again to go on."
            ) from error
        self._end += len(line)

    def _load(self) -> int:
        """Read the file; return where its last whole answer ends."""
        end = 0
        content = self.path.read_bytes() if self.path.exists() else b""
        for number, line in enumerate(content.splitlines(keepends=True), start=1):
            try:
                answer = _read(line)
            except ValueError as error:
                if not line.endswith(b"\n"):
                    break
                raise ValueError(
                    f"line {number} of {self.path} is no answer of an arena ({error}); take it out to have its "
                    "question asked again."
                ) from error
            self._answers[answer.key] = answer
            end += len(line)
        return end


def _read(line: bytes) -> Answer:
    """Return the answer of a line; raise ValueError if it is none."""
    try:
        found = parse_json(line)
    except ValueError as error:
        raise ValueError("no JSON") from error
    if not isinstance(found, Mapping) or set(found) != _FIELDS:
        raise ValueError("other fields")
    if found["choice"] not in _CHOICES.get(str(found["kind"]), ()):
        raise ValueError(f"choice {found['choice']!r} of kind {found['kind']!r}")
    if not all(isinstance(found[name], int) for name in COUNTS):
        raise ValueError("no numbers")
    return Answer(**found)
