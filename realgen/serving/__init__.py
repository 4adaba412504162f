"""Rewards over HTTP: what travels, how a client asks, how a server answers."""

from realgen.serving.client import ConnectionSettings, RewardClient
from realgen.serving.settings import ServerSettings
from realgen.serving.wire import Limits, WireError

__all__ = ["ConnectionSettings", "Limits", "RewardClient", "ServerSettings", "WireError"]
