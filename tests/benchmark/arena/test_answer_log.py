"""The file of answers: whole lines only, on the disk at once, one writer; damage is found, not guessed around."""

import errno
import json
import resource
from contextlib import contextmanager
from dataclasses import asdict, replace

import pytest

from realgen.benchmark.arena.answer_log import AnswerLog
from realgen.benchmark.arena.result import Answer

ANSWER = Answer(
    "k1", "compare", "judge", "00000", "flux", "real", "first", "Why: \u2028 \u00fc.", "All.", 100, 10, 1, 1
)
OTHER = replace(ANSWER, key="k2", kind="single", second="", choice=None)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "run" / "arena.jsonl"
    answers = AnswerLog(path)
    with answers.writing():
        answers.append(ANSWER)
        answers.append(OTHER)
    return path


def test_answers_come_back(log):
    found = AnswerLog(log)
    assert (found.get("k1"), found.get("k2"), found.get("k3")) == (ANSWER, OTHER, None)
    assert [json.loads(line) for line in log.read_bytes().splitlines()] == [asdict(ANSWER), asdict(OTHER)]


def test_an_answer_is_on_the_disk_before_the_file_is_closed(tmp_path):
    answers = AnswerLog(tmp_path / "log")
    with answers.writing():
        answers.append(ANSWER)
        assert AnswerLog(tmp_path / "log").get("k1") == ANSWER


@pytest.mark.parametrize("cut", [1, 2, 20, 10_000])
def test_a_torn_last_line_is_cut_off_and_nothing_else(log, cut):
    whole = log.read_bytes()
    first = whole.index(b"\n") + 1
    torn = whole[: max(first + 1, len(whole) - cut)]
    log.write_bytes(torn)
    answers = AnswerLog(log)
    complete = cut == 1  # all of the answer is there but the end of its line
    assert (answers.get("k1"), answers.get("k2")) == (ANSWER, OTHER if complete else None)
    third = replace(ANSWER, key="k3")
    with answers.writing():
        answers.append(third)
    again = AnswerLog(log)
    assert (again.get("k1"), again.get("k2"), again.get("k3")) == (ANSWER, OTHER if complete else None, third)


@contextmanager
def files_up_to(size):
    """No file of this process can grow beyond some bytes: what does not fit is not written, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 1, 100])
def test_what_a_full_disk_took_of_a_line_is_taken_back_and_said(log, room):
    whole, third = log.read_bytes(), replace(ANSWER, key="k3")
    answers = AnswerLog(log)
    with answers.writing():
        with (
            files_up_to(len(whole) + room),
            pytest.raises(OSError, match=r"arena\.jsonl: an answer .* run again") as full,
        ):
            answers.append(third)
        assert "Errno" not in str(full.value)
        assert (log.read_bytes(), answers.get("k3")) == (whole, None)
        answers.append(replace(ANSWER, key="k4"))  # the answer of another worker, when there is room again
    again = AnswerLog(log)
    assert [again.get(key) is not None for key in ("k1", "k2", "k3", "k4")] == [True, True, False, True]


class BrokenDisk:
    """Takes ten bytes, and then nothing more, and gives nothing back."""

    def __init__(self, file):
        self.file, self.left = file, 10

    def write(self, line):
        if not self.left:
            raise OSError(errno.EIO, "Input/output error")
        self.left -= (written := self.file.write(line[: self.left]))
        return written

    def truncate(self, size):
        raise OSError(errno.EIO, "Input/output error")


def test_nothing_is_written_behind_half_a_line_that_cannot_be_taken_back(log):
    answers, whole = AnswerLog(log), log.read_bytes()
    with answers.writing():
        answers._file = BrokenDisk(answers._file)
        with pytest.raises(OSError, match="Input/output error"):
            answers.append(replace(ANSWER, key="k3"))
        with pytest.raises(RuntimeError):
            answers.append(replace(ANSWER, key="k4"))
    assert len(whole) < log.stat().st_size < len(whole) + 20
    with AnswerLog(log).writing():
        pass
    assert log.read_bytes() == whole


NO_ANSWERS = [
    *(b"{", b"[1]", b'{"key": "k"}', b"\xff", b""),
    json.dumps(asdict(ANSWER))[:50].encode() + json.dumps(asdict(OTHER)).encode(),  # half a line before a whole one
    json.dumps({**asdict(ANSWER), "choice": "third"}).encode(),
    json.dumps({**asdict(ANSWER), "choice": "real"}).encode(),
    json.dumps({**asdict(ANSWER), "kind": ["compare"]}).encode(),
    json.dumps({**asdict(ANSWER), "tokens_in": "many"}).encode(),
]


@pytest.mark.parametrize("line", NO_ANSWERS)
def test_a_damaged_line_in_the_middle_is_named(log, line):
    log.write_bytes(line + b"\n" + log.read_bytes())
    with pytest.raises(ValueError, match=r"line 1 of .*arena\.jsonl is no answer of an arena"):
        AnswerLog(log)


def test_of_two_answers_the_later_counts(log):
    answers = AnswerLog(log)
    with answers.writing():
        answers.append(replace(OTHER, choice="real"))
    assert AnswerLog(log).get("k2").choice == "real"


def test_two_runs_do_not_write_to_one_file(log):
    first, second = AnswerLog(log), AnswerLog(log)
    with first.writing(), pytest.raises(ValueError, match="is being written by another run"), second.writing():
        pass
    with second.writing():
        second.append(replace(ANSWER, key="k3"))
    assert AnswerLog(log).get("k3") is not None


def test_what_another_run_has_written_meanwhile_is_read(log):
    early, late = AnswerLog(log), AnswerLog(log)
    with late.writing():
        late.append(replace(ANSWER, key="k3"))
    with early.writing():
        assert early.get("k3") is not None
        early.append(replace(ANSWER, key="k4"))
    assert [json.loads(line)["key"] for line in log.read_bytes().splitlines()] == ["k1", "k2", "k3", "k4"]


def test_text_that_is_no_unicode_does_not_stop_a_run(tmp_path):
    answers = AnswerLog(tmp_path / "log")
    with answers.writing():
        answers.append(replace(ANSWER, reply="\ud800"))
    assert AnswerLog(tmp_path / "log").get("k1").reply == "?"


def test_outside_of_writing_nothing_is_kept(log):
    with pytest.raises(RuntimeError, match=r"inside `with log\.writing\(\)`"):
        AnswerLog(log).append(ANSWER)
