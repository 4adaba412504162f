"""OmniAID, the feature detector of RealGen (``yunncheng/OmniAID``, CLIP variant)."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from realgen.detectors.base import Detector
from realgen.detectors.checkpoint import load_exactly, locate, read_config, read_state_dict
from realgen.detectors.omniaid_layers import OmniAIDConfig
from realgen.detectors.omniaid_network import OmniAIDNetwork

TRAINING_ONLY = ("U_r", "V_r", "weight_original_fnorm", "position_ids")
"""Last parts of the names in published files that scoring does not need."""


class OmniAID(Detector):
    """Mixture-of-experts detector on a CLIP vision tower; ``p_fake`` is the softmax at class 1.

    Published files differ in rank, resizing and the router's input: the one of RealGen's first release has the defaults
    of ``OmniAIDConfig`` with ``preprocess: v1``, the public OmniAID files ``router_input: frozen_tower``. A file that
    does not fit its config is refused.

    Args:
        checkpoint: A folder with ``config.json`` and ``model.safetensors``, or a ``.safetensors`` or published
            ``.pth`` file.
        config: JSON file with the network's measures, for a checkpoint without ``config.json`` beside it.
        preprocess: ``v1`` resizes to 512 pixels first, ``v2`` does not; by default what the checkpoint's config says.
        batch_size: Images per forward pass.

    Raises:
        ValueError: If a file is missing, or the config has an unknown key or impossible numbers.
    """

    def __init__(
        self,
        checkpoint: str,
        config: str | None = None,
        preprocess: Literal["v1", "v2"] | None = None,
        batch_size: int = 64,
    ) -> None:
        super().__init__(batch_size)
        self._files = locate(checkpoint, config)
        self._config = read_config(self._files.config, OmniAIDConfig)
        if preprocess is not None:
            self._config = dataclasses.replace(self._config, preprocess=preprocess)

    def build(self) -> nn.Module:
        """Read the weights.

        Raises:
            ValueError: Naming the weights that do not fit the config.
        """
        network = OmniAIDNetwork(self._config)
        load_exactly(network, read_state_dict(self._files.weights), self._files.weights, ignored=TRAINING_ONLY)
        return network

    def p_fake(self, network: nn.Module, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, " batch"]:
        """Probability that each image is generated."""
        return network(images).softmax(-1)[:, 1]
