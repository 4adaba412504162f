"""Effort, the detector that judges and never rewards (``YZY-stack/Effort-AIGI-Detection``)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from realgen.detectors.base import Detector
from realgen.detectors.checkpoint import load_exactly, locate, read_config, read_state_dict
from realgen.detectors.effort_network import EffortConfig, EffortNetwork

TRAINING_ONLY = ("U_r", "S_r", "V_r", "weight_original_fnorm", "weight_main_fnorm", "position_ids")
"""Last parts of the names in published files that scoring does not need."""


class Effort(Detector):
    """CLIP detector with retrained small singular values; ``p_fake`` is the softmax at class 1.

    Images are prepared as Effort's own code does, resized and normalised with CLIP's mean and standard deviation.
    RealGen left the normalisation out in training and used ImageNet's in its evaluation; we do neither.

    Args:
        checkpoint: A folder with ``config.json`` and ``model.safetensors``, or a ``.safetensors`` or published
            ``.pth`` file.
        config: JSON file with the network's measures, for a checkpoint without ``config.json`` beside it.
        batch_size: Images per forward pass.

    Raises:
        ValueError: If a file is missing, or the config has an unknown key or impossible numbers.
    """

    def __init__(self, checkpoint: str, config: str | None = None, batch_size: int = 64) -> None:
        super().__init__(batch_size)
        self._files = locate(checkpoint, config)
        self._config = read_config(self._files.config, EffortConfig)

    def build(self) -> nn.Module:
        """Read the weights.

        Raises:
            ValueError: Naming the weights that do not fit the config.
        """
        network = EffortNetwork(self._config)
        load_exactly(network, read_state_dict(self._files.weights), self._files.weights, ignored=TRAINING_ONLY)
        return network

    def p_fake(self, network: nn.Module, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, " batch"]:
        """Probability that each image is generated."""
        return network(images).softmax(-1)[:, 1]
