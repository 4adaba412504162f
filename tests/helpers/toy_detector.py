"""A detector that sees mean colours, folders of coloured images, and what trains one on the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from realgen.data import DetectorAugment, ImageFolders
from realgen.detectors import Detector
from realgen.detectors.base import DetectorNetwork
from realgen.detectors.configs import VisionConfig

PLAIN = DetectorAugment(crop=0.0, flip=0.0, rescale=0.0, blur=0.0, jpeg=0.0)


class ColorNetwork(DetectorNetwork):
    """Logits linear in the mean of each channel; starts at zero, so that p_fake is one half."""

    config = VisionConfig()

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(3, 2)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def features(self, images: Tensor) -> Tensor:
        return self.dropout(images.mean((2, 3)) * self.frozen)

    def set_trainable(self, scope: Literal["head", "bias"]) -> None:
        self.head.weight.requires_grad_(scope == "head")


class ColorDetector(Detector):
    """``ColorNetwork`` as a detector."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout

    def build(self) -> nn.Module:
        return ColorNetwork(self.dropout)

    def p_fake(self, network: nn.Module, images: Tensor) -> Tensor:
        return network(images).softmax(-1)[:, 1]


def fill(folder: Path, color: tuple[int, int, int], number: int) -> str:
    """Write images of one colour, each a little brighter than the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(number):
        Image.new("RGB", (16, 16), tuple(level + i for level in color)).save(folder / f"{i:03d}.png")
    return str(folder)


def folders(root: Path, **settings: Any) -> ImageFolders:
    """Reddish photographs, greenish generated images: 8 of each to train on, 4 and 3 to validate on."""
    return ImageFolders(
        fill(root / "real", (160, 100, 60), 8),
        fill(root / "generated", (100, 160, 60), 8),
        validation_real=fill(root / "held" / "real", (150, 90, 50), 4),
        validation_generated=fill(root / "held" / "generated", (90, 150, 50), 3),
        **{"image_size": 16, "batch_size": 8, "augment": PLAIN, **settings},
    )
