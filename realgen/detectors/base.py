"""The contract of a frozen detector of AI-generated images."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.detectors.network import DetectorNetwork
from realgen.functional.images import check_images


class Detector(ABC):
    """Images in, probability of being generated out.

    A detector is no ``nn.Module``: it stays out of state dicts, optimizers and shards. Its network is frozen, in eval
    mode and never sees a gradient. Scoring a batch equals scoring its images one by one, and a trainer's autocast does
    not change the answer: the network computes in its own weights' type.

    Args:
        batch_size: Images per forward pass.
    """

    def __init__(self, batch_size: int = 64) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        self.batch_size = batch_size
        self._network: nn.Module | None = None

    @abstractmethod
    def build(self) -> nn.Module:
        """Read the weights and return the network as it could be trained; called once, at the first use."""

    @abstractmethod
    def p_fake(self, network: nn.Module, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, " batch"]:
        """Probability that each image is generated; ``images`` are checked, float32, on the network's device."""

    @property
    def network(self) -> nn.Module:
        """The frozen network, built at the first use, and folded where it can be."""
        if self._network is None:
            network = self.build().eval().requires_grad_(False)
            self._network = network.fold() if isinstance(network, DetectorNetwork) else network
        return self._network

    def to(self, device: torch.device | str) -> Detector:
        """Move the network; returns self."""
        self.network.to(device)
        return self

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, " batch"]:
        """Probability that each image is generated.

        Args:
            images: [B, 3, H, W] in [0, 1].

        Returns:
            ``p_fake`` [B] in [0, 1], float32, on the device of ``images``. Images with NaN give NaN.

        Raises:
            ValueError: If the images have another shape, type or range, or the detector answers outside [0, 1].
        """
        check_images(images)
        device = next(self.network.parameters()).device
        with torch.autocast(device.type, enabled=False):
            chunks = [
                self.p_fake(self.network, chunk.to(device, torch.float32)) for chunk in images.split(self.batch_size)
            ]
        p_fake = torch.cat(chunks).float().to(images.device)
        if bool(((p_fake < 0) | (p_fake > 1)).any()):
            raise ValueError(
                f"{type(self).__name__} answered outside [0, 1]: {p_fake.min():.4g} to {p_fake.max():.4g}."
            )
        return p_fake
