"""The contract of a frozen image encoder, and the one that reads a timm network."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.functional.images import check_images, resize

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


class Encoder(ABC):
    """Images in, features out. No ``nn.Module``: frozen, in eval mode, without gradient, out of every state dict.

    An encoder measures; it must never be part of a reward, nor share weights with one.

    Args:
        batch_size: Images per forward pass.

    Raises:
        ValueError: If ``batch_size`` is below 1.
    """

    def __init__(self, batch_size: int = 64) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        self.batch_size = batch_size
        self._network: nn.Module | None = None

    @abstractmethod
    def build(self) -> nn.Module:
        """Read the weights and return the network; called once, at the first use."""

    @abstractmethod
    def features(
        self, network: nn.Module, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch feature"]:
        """Features [B, D]; ``images`` are checked and on the network's device."""

    @property
    def network(self) -> nn.Module:
        """The frozen network, built at the first use."""
        if self._network is None:
            self._network = self.build().eval().requires_grad_(False)
        return self._network

    def to(self, device: torch.device | str) -> Encoder:
        """Move the network; returns self."""
        self.network.to(device)
        return self

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch feature"]:
        """Features of each image.

        Args:
            images: [B, 3, H, W] in [0, 1].

        Returns:
            [B, D] float32 on the device of ``images``.

        Raises:
            ValueError: If the images have another shape, type or range.
        """
        check_images(images)
        device = next(self.network.parameters()).device
        chunks = [self.features(self.network, chunk.to(device)) for chunk in images.split(self.batch_size)]
        return torch.cat(chunks).float().to(images.device)


@dataclass(frozen=True)
class EncoderConfig:
    """What ``config.json`` of an encoder directory says."""

    model_name: str
    """A name that ``timm.create_model`` knows."""
    image_size: int
    """Side in pixels that images are resized to."""
    mean: tuple[float, float, float]
    """Of red, green and blue; subtracted from images in [0, 1]."""
    std: tuple[float, float, float]
    """Of red, green and blue; divides what is left."""
    model_args: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of ``timm.create_model``, such as the widths of the stages."""

    def network(self) -> nn.Module:
        """The network with random weights and without a classifier: images [B, 3, S, S] -> features [B, D]."""
        import timm  # slow to import

        return timm.create_model(self.model_name, pretrained=False, num_classes=0, **self.model_args)


def save_encoder(directory: str | Path, network: nn.Module, config: EncoderConfig) -> Path:
    """Write a directory that ``TimmEncoder`` reads: ``config.json`` and ``model.safetensors``.

    Args:
        directory: Made if it does not exist.
        network: Trained network of ``config.network()``.
        config: How to build it again and how to prepare images for it.

    Returns:
        The directory.
    """
    from safetensors.torch import save_file

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG_FILE).write_text(json.dumps(asdict(config), indent=2) + "\n")
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, directory / WEIGHTS_FILE)
    return directory


class TimmEncoder(Encoder):
    """Pooled features of a timm network, read from a directory on disk.

    Args:
        checkpoint: Directory with ``config.json`` (``model_name``, ``image_size``, ``mean``, ``std``, ``model_args``)
            and ``model.safetensors``, as ``save_encoder`` writes it.
        batch_size: Images per forward pass.

    Raises:
        ValueError: If a file is missing, or ``config.json`` has unknown or missing keys.
    """

    def __init__(self, checkpoint: str, batch_size: int = 64) -> None:
        super().__init__(batch_size)
        self.directory = Path(checkpoint)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not (self.directory / name).is_file():
                raise ValueError(f"checkpoint must be an encoder directory; {self.directory / name} does not exist.")
        self.config = read_config(self.directory / CONFIG_FILE)

    def build(self) -> nn.Module:
        """Build the network and load its weights strictly."""
        from safetensors.torch import load_file

        network = self.config.network()
        network.load_state_dict(load_file(self.directory / WEIGHTS_FILE))
        return network

    def features(
        self, network: nn.Module, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch feature"]:
        """Resize, normalise and encode."""
        images = images.float()
        if images.shape[-2:] != (self.config.image_size, self.config.image_size):
            images = resize(images, self.config.image_size)
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (self.config.mean, self.config.std))
        return network((images - mean) / std)


def read_config(path: Path) -> EncoderConfig:
    """Read ``config.json`` of an encoder directory.

    Raises:
        ValueError: If keys are unknown or missing.
    """
    values = json.loads(path.read_text())
    known = {entry.name for entry in fields(EncoderConfig)}
    required = known - {"model_args"}
    if not required <= set(values) <= known:
        raise ValueError(f"{path} must have the keys {sorted(required)} and may have model_args, got {sorted(values)}.")
    return EncoderConfig(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})
