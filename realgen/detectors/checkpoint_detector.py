"""Detectors whose network is read from a checkpoint: a config and the weights that fit it."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from realgen.detectors.base import DetectorNetwork, NetworkDetector
from realgen.detectors.checkpoint import fitting, locate, read_config, read_state_dict
from realgen.detectors.configs import VisionConfig
from realgen.hub_files import local_file


class CheckpointDetector(NetworkDetector):
    """A ``DetectorNetwork`` from disk.

    Args:
        checkpoint: A folder with ``config.json`` and ``model.safetensors``, or a ``.safetensors`` or published
            ``.pth`` file, or ``hf-hub:OWNER/REPOSITORY/FILE`` with ``config``, which is fetched when it is read.
        config: The network's config where it differs from the published one, or a JSON file with it; needed for a
            checkpoint without ``config.json`` beside it.
        dtype: ``float32`` is exact; ``bfloat16`` is several times faster where the hardware multiplies in it, for the
            price that ``p_fake`` moves by some hundredths, and that it depends on the batch by as much.
        batch_size: Images per forward pass; a CPU is fastest with 2 or so.

    Raises:
        ValueError: If a file is missing, or the config has an unknown key or impossible numbers.
        TypeError: If the config is another network's.
    """

    config_type: ClassVar[type[VisionConfig]]

    def __init__(
        self,
        checkpoint: str,
        config: VisionConfig | str | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        batch_size: int = 64,
    ) -> None:
        super().__init__(batch_size)
        self._dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
        self._files = locate(checkpoint, config)
        self._config: Any = read_config(self._files.config, self.config_type)

    @property
    @abstractmethod
    def network_type(self) -> Any:
        """The ``DetectorNetwork`` made of a ``config_type``."""

    def build(self) -> nn.Module:
        """Read the weights; raise ValueError that names those which do not fit the config."""
        weights = local_file(self._files.weights)
        with torch.device("meta"):  # a config may ask for any size: nothing is allocated until the weights fit it
            fit = fitting(self.network_type(self._config), read_state_dict(weights), weights)
        network: DetectorNetwork = self.network_type(self._config)
        network.load_state_dict(fit)
        network.scoring_dtype = self._dtype
        return network
