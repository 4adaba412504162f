"""litserve's processes: none of them outlives the others."""

import logging
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from multiprocessing.process import BaseProcess
from typing import Any

import litserve
from fastapi import FastAPI

from realgen.serving.gate import LARGE
from realgen.serving.wire import RewardRequest


class RewardServer(litserve.LitServer):
    """litserve's server, but it ends when its web process has ended, and the web process ends with it."""

    litapi_request_queues: dict[str, Any]
    _ending = False

    def _start_server(self, *arguments: Any, **settings: Any) -> dict[int, BaseProcess]:
        processes: dict[int, BaseProcess] = super()._start_server(*arguments, **settings)
        threading.Thread(target=self._wait_for_end, args=(list(processes.values()),), daemon=True).start()
        return processes

    def _wait_for_end(self, processes: Sequence[BaseProcess]) -> None:
        multiprocessing.connection.wait([process.sentinel for process in processes])
        if not self._ending:
            sys.stderr.write("error: the web process has ended; the server ends, too\n")
            self._shutdown_event.set()

    def _perform_graceful_shutdown(self, *arguments: Any, **settings: Any) -> None:
        self._ending = True
        logging.getLogger("litserve.server").disabled = True  # its monitor prints a traceback when the queues have gone
        super()._perform_graceful_shutdown(*arguments, **settings)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Run in the web process while it serves."""
        queues = self.transport_config.manager._process.pid
        end_with_parent(lambda: os.kill(queues, signal.SIGTERM))  # the process of the queues would wait for ever
        self.litapi_request_queues = {path: Sender(queue) for path, queue in self.litapi_request_queues.items()}
        async with super().lifespan(app):
            yield


class Sender:
    """A queue to another process; threads put large requests into it, so that pickling them holds up no other one."""

    def __init__(self, queue: Any) -> None:
        self._queue, self._threads = queue, ThreadPoolExecutor()

    def put(self, item: tuple[int, str, float, RewardRequest]) -> None:
        """Return at once."""
        if item[-1].images.nbytes < LARGE:
            self._queue.put(item)
        else:
            self._threads.submit(self._queue.put, item)


def end_with_parent(before: Callable[[], None] = lambda: None) -> None:
    """End this process, after ``before``, once its parent has ended, even if killed: device memory is freed."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        assert parent is not None
        parent.join()
        before()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=wait, daemon=True).start()
