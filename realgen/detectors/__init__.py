"""Frozen detectors of AI-generated images."""

from realgen.detectors.base import Detector
from realgen.detectors.checkpoint import save
from realgen.detectors.configs import EffortConfig, OmniAIDConfig, OmniAIDDinoConfig, RoutedExperts
from realgen.detectors.effort import Effort, EffortNetwork
from realgen.detectors.forensic_chat import ForensicChat, ForensicChatNetwork
from realgen.detectors.linear_probe import LinearProbe
from realgen.detectors.omniaid import OmniAID, OmniAIDNetwork
from realgen.detectors.omniaid_dino import OmniAIDDino, OmniAIDDinoNetwork

__all__ = [
    "Detector",
    "Effort",
    "EffortConfig",
    "EffortNetwork",
    "ForensicChat",
    "ForensicChatNetwork",
    "LinearProbe",
    "OmniAID",
    "OmniAIDConfig",
    "OmniAIDDino",
    "OmniAIDDinoConfig",
    "OmniAIDDinoNetwork",
    "OmniAIDNetwork",
    "RoutedExperts",
    "save",
]
