"""Frozen detectors of AI-generated images."""

from realgen.detectors.base import Detector
from realgen.detectors.checkpoint import save
from realgen.detectors.configs import EffortConfig, OmniAIDConfig, OmniAIDDinoConfig, RoutedExperts
from realgen.detectors.effort import Effort
from realgen.detectors.effort_network import EffortNetwork
from realgen.detectors.forensic_chat import ForensicChat
from realgen.detectors.forensic_chat_network import ForensicChatNetwork
from realgen.detectors.linear_probe import LinearProbe
from realgen.detectors.omniaid import OmniAID, OmniAIDDino
from realgen.detectors.omniaid_dino_network import OmniAIDDinoNetwork
from realgen.detectors.omniaid_network import OmniAIDNetwork

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
