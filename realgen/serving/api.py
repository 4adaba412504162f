"""The server's side of litserve: requests are verified in the web process and scored in the workers."""

# No `from __future__ import annotations` here: litserve hands the annotation of `decode_request` to FastAPI.

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from queue import Queue
from types import SimpleNamespace
from typing import Annotated, Any

import litserve
import torch
from fastapi import Depends, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from litserve.loops import simple_loops
from litserve.transport.base import MessageTransport
from torch import Tensor

from realgen.checks import printable
from realgen.failures import describe
from realgen.masking import mask
from realgen.serving.client import PATH
from realgen.serving.processes import end_with_parent
from realgen.serving.scoring import Scorer, score_requests
from realgen.serving.wire import RewardRequest, WireError, decode_request, encode_rewards

_IDLE_SECONDS = 1.0


async def read_request(request: Request) -> RewardRequest:
    """Verify a request in the web process, so that workers get only what a reward can score, or raise HTTPException."""
    state, body = request.app.state, await request.body()
    try:
        verified = await run_in_threadpool(decode_request, body, request.headers.get("content-type", ""), state.limits)
    except WireError as error:
        raise HTTPException(error.status, str(error)) from error
    if state.needs_prompts and verified.prompts is None:
        raise HTTPException(422, "this reward reads prompts; the request must bring them.")
    return verified


class RewardAPI(litserve.LitAPI):
    """Scores batches of requests in a worker.

    ``make_scorer`` builds the reward on a device, and must be picklable, because workers are separate processes. A
    request waits ``batch_timeout`` seconds for others, to be scored with at most ``max_batch_size`` of them.
    """

    def __init__(self, make_scorer: Callable[[str], Scorer], *, max_batch_size: int, batch_timeout: float) -> None:
        super().__init__(max_batch_size=max_batch_size, batch_timeout=batch_timeout, api_path=PATH, loop=WaitingLoop())
        self.make_scorer = make_scorer
        self.scorer: Scorer | None = None

    def setup(self, device: str) -> None:
        """Build the reward, once in each worker."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main one ends the others
        end_with_parent()
        try:
            self.scorer = self.make_scorer(device)
        except Exception as error:  # whatever a constructor or a file of weights raises
            if os.environ.get("REALGEN_TRACEBACK", "0") in ("", "0"):
                logging.getLogger("litserve.loops.loops").disabled = True  # it would print the traceback
            sys.stderr.write(f"error: the reward cannot be made on {device}: {_shown(error)}\n")
            raise

    def decode_request(self, request: Annotated[RewardRequest, Depends(read_request)]) -> RewardRequest:
        """Return the request; its annotation makes FastAPI call ``read_request`` before."""
        return request

    def predict(self, x: Sequence[RewardRequest]) -> list[Tensor | Exception]:
        """Score some requests; an error is one of the answers, so that it does not fail the whole batch."""
        assert self.scorer is not None  # setup has run
        try:
            return score_requests(self.scorer, x)
        except torch.AcceleratorError:  # the device is lost to this process; litserve starts a new one
            traceback.print_exc()
            os._exit(1)

    def encode_response(self, output: Tensor | Exception) -> Response:
        """Return the rewards, or status 500 and the error in one line."""
        if isinstance(output, Exception):
            sys.stderr.write(f"error: a request failed: {_shown(output)}\n")
            return JSONResponse({"detail": f"the reward failed: {_shown(output)}"}, status_code=500)
        return JSONResponse(encode_rewards(output))


class WaitingLoop(simple_loops.BatchedLoop):
    """litserve's batching loop, but it sleeps while there is no request, and times a batch from its first request.

    The original polls its queue, which is another process, a thousand times a second.
    """

    def get_batch_requests(
        self, lit_api: litserve.LitAPI, request_queue: Queue[Any], transport: MessageTransport
    ) -> tuple[list[Any], list[Any]]:
        """Return the requests of the next batch, and those that waited too long; both may be empty."""
        try:
            first = self.get_request(request_queue, timeout=_IDLE_SECONDS)
        except (EOFError, ConnectionError):  # the process of the queues has ended, and the server with it
            os._exit(1)
        if first is None:
            return [], []
        front = [first]

        def get(timeout: float | None = None) -> Any:
            return front.pop() if front else request_queue.get(timeout=timeout)

        queue: Any = SimpleNamespace(get=get)  # with that item put back in front
        return super().get_batch_requests(lit_api, queue, transport)


def _shown(error: Exception) -> str:
    return printable(mask(describe(error))[:300])
