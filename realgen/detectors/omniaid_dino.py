"""OmniAID on DINOv3, RealGen v2's second feature detector (``yunncheng/OmniAID``)."""

from __future__ import annotations

from typing import ClassVar

from realgen.detectors.omniaid import OmniAID
from realgen.detectors.omniaid_config import OmniAIDConfig, OmniAIDDinoConfig
from realgen.detectors.omniaid_dino_network import OmniAIDDinoNetwork
from realgen.detectors.routed_network import RoutedNetwork


class OmniAIDDino(OmniAID):
    """Mixture-of-experts detector on a DINOv3 vision transformer; ``p_fake`` is the softmax at class 1.

    Slower than the CLIP variant and less alike to it than another file of the same tower, so a better second opinion.
    """

    network_type: ClassVar[type[RoutedNetwork]] = OmniAIDDinoNetwork
    config_type: ClassVar[type[OmniAIDConfig] | type[OmniAIDDinoConfig]] = OmniAIDDinoConfig
