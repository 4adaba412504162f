"""Frozen detectors of AI-generated images."""

from realgen.detectors.base import Detector
from realgen.detectors.checkpoint import save
from realgen.detectors.effort import Effort
from realgen.detectors.effort_network import EffortConfig, EffortNetwork
from realgen.detectors.omniaid import OmniAID
from realgen.detectors.omniaid_layers import OmniAIDConfig
from realgen.detectors.omniaid_network import OmniAIDNetwork

__all__ = [
    "Detector",
    "Effort",
    "EffortConfig",
    "EffortNetwork",
    "OmniAID",
    "OmniAIDConfig",
    "OmniAIDNetwork",
    "save",
]
