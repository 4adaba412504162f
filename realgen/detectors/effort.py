"""Effort, the detector that judges and never rewards (``YZY-stack/Effort-AIGI-Detection``)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.detectors.base import Detector
from realgen.detectors.checkpoint import load_exactly, locate, read_config, read_state_dict
from realgen.detectors.effort_network import EffortConfig, EffortNetwork


class Effort(Detector):
    """CLIP detector with retrained small singular values; ``p_fake`` is the softmax at class 1.

    Images are prepared as Effort's own code does, resized and normalised with CLIP's mean and standard deviation.
    RealGen left the normalisation out in training and used ImageNet's in its evaluation; we do neither. Published
    weights saw images that OpenCV had resized, which takes ``antialias: false`` in the config. To score, the trained
    part is melted into the frozen weights.

    Args:
        checkpoint: A folder with ``config.json`` and ``model.safetensors``, or a ``.safetensors`` or published
            ``.pth`` file.
        config: The network's measures where they differ from the published ones, or a JSON file with them; needed for a
            checkpoint without ``config.json`` beside it.
        dtype: ``float32`` is exact; ``bfloat16`` is several times faster where the hardware multiplies in it, for the
            price that ``p_fake`` moves by some hundredths, and that it depends on the batch by as much.
        batch_size: Images per forward pass; a CPU is fastest with 2 or so.

    Raises:
        ValueError: If a file is missing, or the config has an unknown key or impossible numbers.
    """

    def __init__(
        self,
        checkpoint: str,
        config: dict[str, Any] | str | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        batch_size: int = 64,
    ) -> None:
        super().__init__(batch_size)
        self._dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
        self._files = locate(checkpoint, config)
        self._config = read_config(self._files.config, EffortConfig)

    def build(self) -> nn.Module:
        """Read the weights.

        Raises:
            ValueError: Naming the weights that do not fit the config.
        """
        network = EffortNetwork(self._config)
        load_exactly(network, read_state_dict(self._files.weights), self._files.weights)
        network.scoring_dtype = self._dtype
        return network

    def p_fake(self, network: nn.Module, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, " batch"]:
        """Probability that each image is generated."""
        return network(images).float().softmax(-1)[:, 1]
