"""Rewards over HTTP: what travels, how a client asks, how a server answers."""

from realgen.serving.client import Connection, RefusedError, RewardClient, UnavailableError
from realgen.serving.settings import ServerSettings
from realgen.serving.wire import Limits, WireError

__all__ = [
    "Connection",
    "Limits",
    "RefusedError",
    "RewardClient",
    "ServerSettings",
    "UnavailableError",
    "WireError",
]
