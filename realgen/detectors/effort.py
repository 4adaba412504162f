"""Effort, a held-out detector for evaluation (``YZY-stack/Effort-AIGI-Detection``)."""

from __future__ import annotations

from typing import Any, ClassVar

from realgen.detectors.checkpoint_detector import CheckpointDetector
from realgen.detectors.configs import EffortConfig, VisionConfig
from realgen.detectors.effort_network import EffortNetwork


class Effort(CheckpointDetector):
    """CLIP detector with retrained small singular values; ``p_fake`` is the softmax at class 1.

    Images are prepared as Effort's own code does, resized and normalised with CLIP's mean and standard deviation.
    RealGen left the normalisation out in training and used ImageNet's in its evaluation; we do neither. Published
    weights saw images that OpenCV had resized, which takes ``antialias: false`` in the config. For scoring, the trained
    part is merged into the frozen weights.

    Args:
        checkpoint: As in ``CheckpointDetector``, like what follows.
        config: Of the network, where it differs from the published one.
        **settings: ``dtype`` and ``batch_size``.
    """

    network_type: ClassVar[Any] = EffortNetwork
    config_type: ClassVar[type[VisionConfig]] = EffortConfig

    def __init__(self, checkpoint: str, config: EffortConfig | str | None = None, **settings: Any) -> None:
        super().__init__(checkpoint, config, **settings)
