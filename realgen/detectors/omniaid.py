"""OmniAID, the feature detector of RealGen (``yunncheng/OmniAID``), on CLIP and on DINOv3."""

from __future__ import annotations

from typing import Any, ClassVar

from realgen.detectors.checkpoint_detector import CheckpointDetector
from realgen.detectors.configs import OmniAIDConfig, OmniAIDDinoConfig, VisionConfig
from realgen.detectors.omniaid_dino_network import OmniAIDDinoNetwork
from realgen.detectors.omniaid_network import OmniAIDNetwork


class OmniAID(CheckpointDetector):
    """Mixture-of-experts detector on a CLIP vision tower; ``p_fake`` is the softmax at class 1.

    Published files differ in rank, resizing and the router's input: the one of RealGen's first release has the defaults
    of ``OmniAIDConfig`` with ``preprocess: v1``, the public OmniAID files ``router_input: frozen_tower``. A file that
    does not fit its config is refused, with the build that it looks like. For scoring, the expert that is always on is
    merged into the frozen weights.

    Args:
        checkpoint: As in ``CheckpointDetector``, like what follows.
        config: Of the network, where it differs from the published one.
        **settings: ``dtype`` and ``batch_size``.
    """

    network_type: ClassVar[Any] = OmniAIDNetwork
    config_type: ClassVar[type[VisionConfig]] = OmniAIDConfig

    def __init__(self, checkpoint: str, config: OmniAIDConfig | str | None = None, **settings: Any) -> None:
        super().__init__(checkpoint, config, **settings)


class OmniAIDDino(CheckpointDetector):
    """Mixture-of-experts detector on a DINOv3 vision transformer (RealGen v2); ``p_fake`` is the softmax at class 1.

    Slower than the CLIP variant and less alike to it than another file of the same tower, so a better second opinion.

    Args:
        checkpoint: As in ``CheckpointDetector``, like what follows.
        config: Of the network, where it differs from the published one.
        **settings: ``dtype`` and ``batch_size``.
    """

    network_type: ClassVar[Any] = OmniAIDDinoNetwork
    config_type: ClassVar[type[VisionConfig]] = OmniAIDDinoConfig

    def __init__(self, checkpoint: str, config: OmniAIDDinoConfig | str | None = None, **settings: Any) -> None:
        super().__init__(checkpoint, config, **settings)
