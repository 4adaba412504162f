"""A run that is killed in the middle, by SIGKILL in a process of its own, and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from realgen.benchmark.arena.arena import Arena
from realgen.judges import OpenAIJudge
from tests.helpers.arena_images import arena_images
from tests.helpers.arena_server import arena_server, prefers_bright, read_question
from tests.helpers.hostile_server import hang

ROOT = Path(__file__).resolve().parents[3]
LEVELS = {"bright": 200, "dark": 40}
BEFORE = 12
"""Questions that are answered before the kill."""

SCRIPT = """
import sys
from pathlib import Path
from realgen.benchmark.arena.arena import Arena
from realgen.judges import OpenAIJudge
from tests.helpers.arena_images import arena_images

folder, url = Path(sys.argv[1]), sys.argv[2]
judge = OpenAIJudge("judge", base_url=url, api_key_variable=None, concurrency=3)
Arena(judge).run(*arena_images(folder, {"bright": 200, "dark": 40}), folder / "arena.jsonl")
"""


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def lines(log):
    return log.read_bytes().splitlines() if log.exists() else []


def run(server, images, log):
    judge = OpenAIJudge("judge", base_url=f"{server.url}/v1", api_key_variable=None)
    return Arena(judge).run(*images, log)


def shown(request):
    """What was asked: the levels of the images in their order."""
    return tuple(image.getpixel((0, 0))[0] for image in read_question(request).images)


def kill_in_the_middle(folder, log, url):
    """Start a run, wait until as many answers are kept as the server gives, and kill it.

    Raises:
        AssertionError: If the run ends by itself, or keeps too few.
    """
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), url], cwd=ROOT, env=os.environ)
    try:
        deadline = time.monotonic() + 300
        while len(lines(log)) < BEFORE:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path):
    images, log = arena_images(tmp_path, LEVELS), tmp_path / "arena.jsonl"

    def answer(handler, number):
        (prefers_bright if number < BEFORE else hang)(handler, number)

    with arena_server(answer) as server:
        kill_in_the_middle(tmp_path, log, f"{server.url}/v1")
        answered = {shown(request) for request in server.requests[:BEFORE]}
    kept = [json.loads(line) for line in lines(log)]
    assert len(kept) == len({answer["key"] for answer in kept}) == len(answered) == BEFORE
    with log.open("ab") as file:
        file.write(lines(log)[0][:100])  # as if the kill had come in the middle of a line
    with arena_server() as server:
        resumed = run(server, images, log)
        asked = [shown(request) for request in server.requests]
    assert len(asked) == len(set(asked)) == resumed.asked == resumed.questions - BEFORE
    assert not answered & set(asked)
    with arena_server() as server:
        whole = run(server, images, tmp_path / "whole.jsonl")
    assert (resumed.pairs, resumed.singles) == (whole.pairs, whole.singles)
    assert (resumed.matchups, resumed.ranking) == (whole.matchups, whole.ranking)
    keys = [json.loads(line)["key"] for line in lines(log)]
    assert len(keys) == len(set(keys)) == resumed.questions
