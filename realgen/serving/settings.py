"""The settings under ``server`` in a config."""

import math
from dataclasses import dataclass
from typing import Literal, get_type_hints

from realgen.checks import check_at_least
from realgen.serving.wire import Limits


@dataclass(frozen=True)
class ServerSettings(Limits):
    """Address and devices of a reward server, and the largest request that it accepts."""

    host: Literal["127.0.0.1", "0.0.0.0", "::"] = "127.0.0.1"
    """Interface: for this machine alone, or for every one that can reach it (IPv4, IPv6)."""
    port: int = 8000
    """1024 to 65535."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Kind of the devices."""
    devices: int | list[int] | None = None
    """Number of devices, or their indices; null for all."""
    workers_per_device: int = 1
    """Processes per device, >= 1, each with its own copy of the reward."""
    max_batch_size: int = 8
    """Largest number of requests that are scored together, >= 1."""
    batch_timeout: float = 0.01
    """Seconds that a request waits for others, > 0."""
    timeout: float = 60.0
    """Seconds after which a request is answered with status 504, > 0."""
    max_concurrency: int = 64
    """Largest number of complete requests at a time, >= 1; more get status 503."""
    max_bytes_in_flight: int = 2**31
    """Largest size of all bodies together that have no answer yet, >= 1; more get status 503."""
    token_variable: str | None = None
    """Environment variable with a token that clients must send; null for none."""

    def __post_init__(self) -> None:
        if not 1024 <= self.port <= 65535:
            raise ValueError(f"port must be 1024 to 65535, got {self.port}.")
        counts = [name for name, kind in get_type_hints(type(self)).items() if kind is int]
        check_at_least(1, **{name: getattr(self, name) for name in counts})
        for name in ("batch_timeout", "timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {getattr(self, name)}.")
        if self.devices in (0, []):
            raise ValueError(f"devices must be a number from 1 on, a list of indices, or null, got {self.devices}.")
        if self.batch_timeout >= self.timeout:
            raise ValueError(f"batch_timeout must be below timeout={self.timeout}, got {self.batch_timeout}.")
