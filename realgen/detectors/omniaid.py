"""OmniAID, the feature detector of RealGen (``yunncheng/OmniAID``), on CLIP."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.detectors.base import Detector
from realgen.detectors.checkpoint import load_exactly, locate, read_config, read_state_dict
from realgen.detectors.omniaid_config import OmniAIDConfig, OmniAIDDinoConfig
from realgen.detectors.omniaid_network import OmniAIDNetwork
from realgen.detectors.routed_network import RoutedNetwork


class OmniAID(Detector):
    """Mixture-of-experts detector on a CLIP vision tower; ``p_fake`` is the softmax at class 1.

    Published files differ in rank, resizing and the router's input: the one of RealGen's first release has the defaults
    of ``OmniAIDConfig`` with ``preprocess: v1``, the public OmniAID files ``router_input: frozen_tower``. A file that
    does not fit its config is refused, with the build that it looks like. To score, the expert that is always on is
    melted into the frozen weights.

    Args:
        checkpoint: A folder with ``config.json`` and ``model.safetensors``, or a ``.safetensors`` or published
            ``.pth`` file.
        config: The network's measures where they differ from the published ones, or a JSON file with them; needed for a
            checkpoint without ``config.json`` beside it.
        preprocess: ``v1`` resizes to 512 pixels first, ``v2`` does not; by default what the config says.
        dtype: ``float32`` is exact; ``bfloat16`` is several times faster where the hardware multiplies in it, for the
            price that ``p_fake`` moves by some hundredths, and that it depends on the batch by as much.
        batch_size: Images per forward pass; a CPU is fastest with 2 or so.

    Raises:
        ValueError: If a file is missing, or the config has an unknown key or impossible numbers.
    """

    network_type: ClassVar[type[RoutedNetwork]] = OmniAIDNetwork
    config_type: ClassVar[type[OmniAIDConfig] | type[OmniAIDDinoConfig]] = OmniAIDConfig

    def __init__(
        self,
        checkpoint: str,
        config: dict[str, Any] | str | None = None,
        preprocess: Literal["v1", "v2"] | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        batch_size: int = 64,
    ) -> None:
        super().__init__(batch_size)
        self._dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
        self._files = locate(checkpoint, config)
        self._config = read_config(self._files.config, self.config_type)
        if preprocess is not None:
            self._config = dataclasses.replace(self._config, preprocess=preprocess)

    def build(self) -> nn.Module:
        """Read the weights.

        Raises:
            ValueError: Naming the weights that do not fit the config.
        """
        network = self.network_type(self._config)
        load_exactly(network, read_state_dict(self._files.weights), self._files.weights)
        network.scoring_dtype = self._dtype
        return network

    def p_fake(self, network: nn.Module, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, " batch"]:
        """Probability that each image is generated."""
        return network(images).float().softmax(-1)[:, 1]
