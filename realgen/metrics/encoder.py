"""The contract of a frozen image encoder, and the one that reads a timm network."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from realgen.detectors.base import FrozenNetwork
from realgen.detectors.checkpoint import CONFIG_NAME, WEIGHTS_NAME, write_folder
from realgen.functional.network_input import NetworkInput, to_network_input
from realgen.given_files import read_json
from realgen.metrics.base import ImageMetric


class Encoder(FrozenNetwork):
    """Images in, features out, for metrics; never part of a reward, nor sharing weights with one.

    Args:
        batch_size: Images per forward pass.
    """

    @abstractmethod
    def features(
        self, network: nn.Module, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch feature"]:
        """Return features [B, D]; ``images`` are checked, float32, on the network's device."""

    def __call__(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch feature"]:
        """Return the features of each image in [0, 1], [B, D] in float32 on the device of ``images``.

        ValueError if the images have another shape, type or range.
        """
        return self.in_chunks(self.features, images)


@dataclass(frozen=True)
class EncoderConfig:
    """The contents of an encoder directory's ``config.json``."""

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
        """Return the network with random weights and without a classifier: images [B, 3, S, S] -> features [B, D]."""
        import timm  # slow to import

        return timm.create_model(self.model_name, pretrained=False, num_classes=0, **self.model_args)


def save_encoder(directory: str | Path, network: nn.Module, config: EncoderConfig) -> Path:
    """Write a directory that ``TimmEncoder`` reads, ``config.json`` and ``model.safetensors``, and return it.

    ``network`` is a trained one of ``config.network()``.
    """
    return write_folder(directory, network.state_dict(), config)


class TimmEncoder(Encoder):
    """Pooled features of a timm network, read from a directory on disk.

    ValueError if a file is missing, or ``config.json`` has unknown or missing keys.

    Args:
        checkpoint: Directory with ``config.json`` (``model_name``, ``image_size``, ``mean``, ``std``, ``model_args``)
            and ``model.safetensors``, as ``save_encoder`` writes it.
        batch_size: Images per forward pass.
    """

    def __init__(self, checkpoint: str, batch_size: int = 64) -> None:
        super().__init__(batch_size)
        self.directory = Path(checkpoint)
        for name in (CONFIG_NAME, WEIGHTS_NAME):
            if not (self.directory / name).is_file():
                raise ValueError(f"checkpoint must be an encoder directory; {self.directory / name} does not exist.")
        self.config = read_config(self.directory / CONFIG_NAME)

    def build(self) -> nn.Module:
        """Build the network and load its weights strictly."""
        from safetensors.torch import load_file

        network = self.config.network()
        network.load_state_dict(load_file(self.directory / WEIGHTS_NAME))
        return network

    def features(
        self, network: nn.Module, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch feature"]:
        """Resize to a square, normalise and encode."""
        side = self.config.image_size
        wanted = NetworkInput((side, side), self.config.mean, self.config.std, keep_aspect=False)
        return network(to_network_input(images, wanted))


def read_config(path: Path) -> EncoderConfig:
    """Read ``config.json`` of an encoder directory; raise ValueError if keys are unknown or missing."""
    values = read_json(path)
    known = {entry.name for entry in fields(EncoderConfig)}
    required = known - {"model_args"}
    if not required <= set(values) <= known:
        raise ValueError(f"{path} must have the keys {sorted(required)} and may have model_args, got {sorted(values)}.")
    return EncoderConfig(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


class EncoderMetric(ImageMetric):
    """A metric of the features of images.

    Args:
        encoder: One that no reward uses.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def describe(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch feature"]:
        """Return features [B, D]."""
        return self.encoder.to(images.device)(images)
