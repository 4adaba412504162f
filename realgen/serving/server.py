"""Starts a reward server, its web process and its workers on the devices, and ends them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable

from realgen.serving.gate import Gate
from realgen.serving.scoring import Scorer
from realgen.serving.settings import ServerSettings


def serve(
    make_scorer: Callable[[str], Scorer], settings: ServerSettings, *, needs_prompts: bool, token: str | None
) -> None:
    """Serve a reward until the process is interrupted.

    A worker that dies is started anew; its requests run into ``settings.timeout``. The queues between the server's
    processes are litserve's, and do pickle; nothing from the network gets there unverified.

    Args:
        make_scorer: Builds the reward on a device; picklable.
        settings: Address, devices and limits.
        needs_prompts: Whether a request without prompts is refused.
        token: That clients must send; None for none.

    Raises:
        ModuleNotFoundError: If litserve is not installed.
        RuntimeError: If no worker could make the reward.
    """
    try:
        from litserve import LitServer
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}. Install the extra: pip install 'realgen[serve]'") from error
    from realgen.serving.api import RewardAPI

    api = RewardAPI(make_scorer, max_batch_size=settings.max_batch_size, batch_timeout=settings.batch_timeout)
    server = LitServer(
        api,
        accelerator=settings.accelerator,
        devices="auto" if settings.devices is None else settings.devices,
        workers_per_device=settings.workers_per_device,
        timeout=settings.timeout,
        middlewares=[(Gate, {"token": token, "max_bytes": settings.max_bytes, "timeout": settings.timeout})],
        restart_workers=True,
        disable_openapi_url=True,
    )
    server.app.state.limits = settings
    server.app.state.needs_prompts = needs_prompts
    try:
        server.run(
            host=settings.host,
            port=settings.port,
            log_level="warning",
            generate_client_file=False,
            limit_concurrency=settings.max_concurrency,
        )
    finally:  # litserve leaves its processes running when it is stopped before it serves
        for process in multiprocessing.active_children():
            process.terminate()
