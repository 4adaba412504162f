"""Frozen networks that wait on the CPU, and lie on another device only while they compute."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def on_device(networks: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Copy frozen networks from the CPU to a device inside this context, and drop the copies behind it.

    Their own weights, which nothing may change, stay on the CPU, for a GPU in pinned memory from the first time on, so
    that nothing is ever copied back. Exact.
    """
    waiting: list[Tensor | None] = []

    def bring(weight: Tensor) -> Tensor:
        if not weight.is_cpu:  # tied to one that came before
            waiting.append(None)
            return weight
        own = weight.detach()
        if device.type == "cuda" and type(own) is Tensor and not own.is_pinned():  # 8 bits cannot be pinned
            own = own.pin_memory()
        waiting.append(own)
        return own.to(device, non_blocking=True)

    if device.type == "cpu":
        yield
        return
    try:
        for network in networks:
            network._apply(bring)
        yield
    finally:
        back = iter(waiting)
        for network in networks:
            network._apply(lambda weight: weight if (own := next(back, None)) is None else own)
