"""The contract of a frozen detector of AI-generated images, and of the trainable network behind it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.checks import check_at_least
from realgen.detectors.configs import VisionConfig
from realgen.functional.network_input import check_images
from realgen.on_demand import on_device

Frozen = TypeVar("Frozen", bound="FrozenNetwork")


class FrozenNetwork(ABC):
    """Apply a network to images in chunks: frozen, in eval mode, without gradient, built at the first use.

    Not an ``nn.Module``: it stays out of state dicts, optimizers and shards. A trainer's autocast does not change the
    result, as the network computes in its own weights' type.

    Args:
        batch_size: Images per forward pass.
    """

    def __init__(self, batch_size: int = 64) -> None:
        check_at_least(1, batch_size=batch_size)
        self.batch_size = batch_size
        self._network: nn.Module | None = None
        self._computes_on: torch.device | None = None
        """Where the network is copied to while it computes; None: it computes where it lies."""

    @abstractmethod
    def build(self) -> nn.Module:
        """Read the weights and return the network as it could be trained; called once, at the first use."""

    @property
    def network(self) -> nn.Module:
        """Return the frozen network, merged where it can be."""
        if self._network is None:
            network = self.build().eval().requires_grad_(False)
            self._network = network.merge() if isinstance(network, DetectorNetwork) else network
        return self._network

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self._computes_on or next(self.network.parameters()).device

    def to(self: Frozen, device: torch.device | str) -> Frozen:
        """Let the network compute on a device, and lie there unless it waits on the CPU; return self."""
        self._computes_on = self._computes_on and torch.device(device)
        if self._computes_on is None:
            self.network.to(device)
        return self

    def wait_on_cpu(self) -> None:
        """Let the network wait on the CPU from now on while it does not compute. Exact; costs a copy for each call."""
        self._computes_on = self.device
        self.network.to("cpu")

    def present(self) -> AbstractContextManager[None]:
        """Return a context inside which the network lies where it computes."""
        return nullcontext() if self._computes_on is None else on_device([self.network], self._computes_on)

    @torch.no_grad()
    def in_chunks(
        self, apply: Callable[[Any, Tensor], Tensor], images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch *output"]:
        """Apply a function of network and images to ``batch_size`` images [B, 3, H, W] in [0, 1] at a time.

        The function gets float32 images on the network's device. Returns [B, ...] in float32, on the device of
        ``images``. ValueError if the images have another shape, type or range.
        """
        check_images(images)
        device = self.device
        with self.present(), torch.autocast(device.type, enabled=False):
            chunks = [apply(self.network, chunk.to(device, torch.float32)) for chunk in images.split(self.batch_size)]
        return torch.cat(chunks).float().to(images.device)


class Detector(FrozenNetwork):
    """Images in, probability of being generated out; the result for a batch equals that of its images one by one."""

    @abstractmethod
    def p_fake(self, network: Any, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, " batch"]:
        """Return the probability that each image is generated; ``images`` are checked, float32, on its device."""

    def __call__(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, " batch"]:
        """Return ``p_fake`` [B] in [0, 1] of images [B, 3, H, W] in [0, 1], in float32 on their device; NaN for NaN.

        Raises:
            ValueError: If the images have another shape, type or range, or the detector answers outside [0, 1].
        """
        p_fake = self.in_chunks(self.p_fake, images)
        if bool(((p_fake < 0) | (p_fake > 1)).any()):
            raise ValueError(
                f"{type(self).__name__} answered outside [0, 1]: {p_fake.min():.4g} to {p_fake.max():.4g}."
            )
        return p_fake


class NetworkDetector(Detector):
    """A detector whose network is a ``DetectorNetwork``: ``p_fake`` is the softmax at class 1."""

    def p_fake(self, network: Any, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, " batch"]:
        """Return the network's probability of class 1."""
        return network(images).float().softmax(-1)[:, 1]


class DetectorNetwork(nn.Module, ABC):
    """A trainable detector on a vision tower; class 0 is real, class 1 is fake."""

    family: ClassVar[str] = "a detector of its own"
    """Name of the published detector, for messages."""
    config: VisionConfig
    head: nn.Linear
    merged = False
    """Whether ``merge`` was called: the network scores, and is no longer trained or saved."""
    scoring_dtype: torch.dtype | None = None
    """Type of the weights after ``merge``; None keeps theirs."""

    @abstractmethod
    def features(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        """Return the head's input for images [B, 3, H, W] in [0, 1]; resizing and normalising included."""

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 2"]:
        """Return logits of (real, fake) for images [B, 3, H, W] in [0, 1]; resizing and normalising included."""
        return self.head(self.features(images))

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that require a gradient, by name; ``set_trainable`` of each network chooses them."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    @torch.no_grad()
    def merge(self) -> DetectorNetwork:
        """Merge what is fixed while scoring into fewer weights, for good, exact to rounding; return it, frozen."""
        if not self.merged:
            self._merge()
            self.merged = True
            self.to(self.scoring_dtype)
        return self.eval().requires_grad_(False)

    def _merge(self) -> None:
        """Rewrite the network in place; nothing by default."""
