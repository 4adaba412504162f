"""The server's steps without its processes: what the web process lets through, and what a worker answers."""

import asyncio
import functools
import pickle
import queue
import threading
import time
from typing import Annotated

import fastapi
import httpx
import numpy as np
import pytest
import torch
from litserve.transport import MPQueueTransport

from realgen import masking
from realgen.serving import Limits, processes
from realgen.serving.api import RewardAPI, WaitingLoop, read_request
from realgen.serving.gate import Gate
from realgen.serving.wire import RewardRequest, encode_request

IMAGES = torch.rand(2, 3, 4, 4)
TRANSPORT = MPQueueTransport(None, [])


class Half:
    """Finds every image half good."""

    def score(self, rollout):
        return torch.full((len(rollout.images),), 0.5)


def make_half(device):
    assert device == "cpu"
    return Half()


def make_nothing(device):
    raise ValueError("no weights\nat all")


@pytest.fixture
def api():
    # setup ignores Ctrl-C, which belongs into a worker and not into this process
    made = RewardAPI(make_half, max_batch_size=4, batch_timeout=0.05)
    made.scorer = made.make_scorer("cpu")
    return made


def post(body, content_type, *, needs_prompts=False):
    app = fastapi.FastAPI()
    app.state.limits = Limits(max_bytes=10_000, max_images=2)
    app.state.needs_prompts = needs_prompts

    @app.post("/rewards")
    async def rewards(request: Annotated[RewardRequest, fastapi.Depends(read_request)]) -> dict[str, int]:
        return {"rows": len(request.images)}

    app.add_middleware(Gate, token=None, max_bytes=10_000, timeout=30.0)

    async def send():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.post("/rewards", content=body, headers={"Content-Type": content_type})

    answer = asyncio.run(send())
    return answer.status_code, answer.json()


@pytest.mark.parametrize("encoding", ["safetensors", "png", "webp"])
def test_a_good_request_is_let_through(encoding):
    assert post(*encode_request(IMAGES, None, encoding)) == (200, {"rows": 2})


def test_a_reward_that_reads_prompts_gets_them():
    assert post(*encode_request(IMAGES, ["a", "b"], "png"), needs_prompts=True)[0] == 200
    status, answer = post(*encode_request(IMAGES, None, "png"), needs_prompts=True)
    assert (status, answer["detail"]) == (422, "this reward reads prompts; the request must bring them.")


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"garbage", "application/json", 400),
        (b"garbage", "application/safetensors", 400),
        (pickle.dumps(IMAGES.numpy()), "application/python-pickle", 415),
        (b'{"images": [], "prompts": []}', "application/json", 422),
        (b"x" * 10_001, "application/json", 413),
        (encode_request(torch.rand(3, 3, 4, 4), None, "png")[0], "application/json", 413),
    ],
)
def test_a_wrong_request_gets_one_line(body, content_type, status):
    given, answer = post(body, content_type)
    assert given == status
    assert list(answer) == ["detail"]
    assert answer["detail"].isprintable()


def test_a_worker_answers_each_request(api):
    requests = [RewardRequest(np.zeros((rows, 3, 4, 4), np.float32), None) for rows in (1, 3)]
    answers = [api.encode_response(output) for output in api.predict(requests)]
    assert [answer.body for answer in answers] == [b'{"rewards":[0.5]}', b'{"rewards":[0.5,0.5,0.5]}']


def test_an_error_becomes_one_line_and_status_500(api, capsys):
    answer = api.encode_response(ValueError("answered outside [0, 1]\nmore"))
    assert answer.status_code == 500
    assert answer.body == b'{"detail":"the reward failed: ValueError: answered outside [0, 1]"}'
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.attack("secrets", "in the error of a served reward")
def test_neither_the_answer_nor_the_log_of_a_worker_holds_a_secret(api, capsys, monkeypatch):
    monkeypatch.setattr(masking, "_values", {})
    monkeypatch.setenv("MY_SECRET", "correct-horse")
    masking.hide(["MY_SECRET"])
    answer = api.encode_response(OSError("the service refuses\x1b[2J 'correct-horse'\nmore"))
    assert (
        answer.body == b'{"detail":"the reward failed: OSError: the service refuses\\\\x1b[2J \'${oc.env:MY_SECRET}\'"}'
    )
    assert "correct-horse" not in capsys.readouterr().err


@pytest.mark.attack("server", "a large body that is handed to a worker")
def test_a_request_that_is_handed_over_slowly_holds_up_no_other():
    class Slow:
        def __init__(self):
            self.go_on, self.items = threading.Event(), queue.Queue()

        def put(self, item):
            if item is large:
                assert self.go_on.wait(60)
            self.items.put(item)

    small, large = ((0, "id", 0.0, RewardRequest(np.zeros((1, 3, side, side), np.uint8), None)) for side in (8, 800))
    slow = Slow()
    sender = processes.Sender(slow)
    sender.put(large)
    sender.put(small)
    assert slow.items.get(timeout=60) is small
    slow.go_on.set()
    assert slow.items.get(timeout=60) is large


def test_a_broken_device_ends_the_worker(api, monkeypatch):
    class Broken:
        def score(self, rollout):
            raise torch.AcceleratorError("device-side assert")

    class Ended(BaseException):
        pass

    def leave(code):
        raise Ended(code)

    monkeypatch.setattr("os._exit", leave)
    api.scorer = Broken()
    with pytest.raises(Ended, match="1"):
        api.predict([RewardRequest(np.zeros((1, 3, 4, 4), np.float32), None)])


def test_a_reward_that_cannot_be_made_is_told_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    api = RewardAPI(make_nothing, max_batch_size=1, batch_timeout=0.05)
    with pytest.raises(ValueError, match="no weights"):
        api.setup("cuda:3")
    assert capsys.readouterr().err == "error: the reward cannot be made on cuda:3: ValueError: no weights\n"


def test_the_api_can_be_sent_to_a_worker():
    api = RewardAPI(functools.partial(make_half), max_batch_size=2, batch_timeout=0.05)
    assert pickle.loads(pickle.dumps(api)).max_batch_size == 2


def item(number):
    return (0, str(number), time.monotonic(), number)


def test_the_loop_takes_what_waits_but_no_more_than_a_batch(api):
    api.request_timeout = 60.0
    waiting = queue.Queue()
    for number in range(6):
        waiting.put(item(number))
    loop = WaitingLoop()
    assert [[payload for _, _, payload in loop.get_batch_requests(api, waiting, TRANSPORT)[0]] for _ in range(2)] == [
        [0, 1, 2, 3],
        [4, 5],
    ]


def test_the_loop_sleeps_while_nothing_comes(api, monkeypatch):
    monkeypatch.setattr("realgen.serving.api._IDLE_SECONDS", 0.01)
    assert WaitingLoop().get_batch_requests(api, queue.Queue(), TRANSPORT) == ([], [])


def test_a_request_that_waited_too_long_is_set_apart(api):
    api.request_timeout = 1.0
    waiting = queue.Queue()
    waiting.put((0, "old", time.monotonic() - 2.0, None))
    assert WaitingLoop().get_batch_requests(api, waiting, TRANSPORT) == ([], [(0, "old")])
