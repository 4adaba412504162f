"""Starts a reward server, its web process and its workers on the devices, and ends them."""

import functools
import multiprocessing
from collections.abc import Callable

from realgen.serving.gate import Gate
from realgen.serving.scoring import Scorer
from realgen.serving.settings import ServerSettings
from realgen.serving.wire import JSON, SAFETENSORS


def serve(
    make_scorer: Callable[[str], Scorer], settings: ServerSettings, *, needs_prompts: bool, token: str | None
) -> None:
    """Serve a reward until the process is interrupted.

    A worker that dies is started anew; its requests run into ``settings.timeout``. When another of the processes dies,
    all end. The queues between the server's processes are litserve's, and do pickle; nothing from the network gets
    there unverified. ``make_scorer`` builds the reward on a device, and is picklable. Requests without the token, if
    there is one, or without prompts where they are needed, are refused.

    Raises:
        ModuleNotFoundError: If litserve is not installed.
        RuntimeError: If no worker could make the reward, or the process of the queues has ended.
    """
    try:
        from realgen.serving.api import RewardAPI
        from realgen.serving.connection import HEADER_SECONDS, Connection
        from realgen.serving.processes import RewardServer
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}. Install the extra: pip install 'realgen[serve]'") from error

    api = RewardAPI(make_scorer, max_batch_size=settings.max_batch_size, batch_timeout=settings.batch_timeout)
    limits = {
        "max_bytes": max(map(settings.largest_body, (SAFETENSORS, JSON))),
        "max_requests": settings.max_concurrency,
        "max_bytes_held": settings.max_bytes_in_flight,
    }
    server = RewardServer(
        api,
        accelerator=settings.accelerator,
        devices="auto" if settings.devices is None else settings.devices,
        workers_per_device=settings.workers_per_device,
        timeout=settings.timeout,
        middlewares=[(Gate, {"token": token, "timeout": settings.timeout, **limits})],
        restart_workers=True,
        disable_openapi_url=True,
    )
    server.app.router.redirect_slashes = False  # a redirect names the host that the client claims
    server.app.state.limits = settings
    server.app.state.needs_prompts = needs_prompts
    try:
        server.run(
            host=settings.host,
            port=settings.port,
            log_level="error",  # warnings are for each bad request, and a stranger can send many
            generate_client_file=False,
            http=functools.partial(
                Connection, request_seconds=settings.timeout + HEADER_SECONDS, max_requests=settings.max_concurrency
            ),
            ws="none",
        )
    except (EOFError, ConnectionError) as error:
        raise RuntimeError("the process that holds the server's queues has ended; the server ends, too") from error
    finally:  # litserve leaves its processes running when it is stopped before it serves
        for process in multiprocessing.active_children():
            process.terminate()
