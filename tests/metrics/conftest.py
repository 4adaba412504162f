"""Small judges with known answers, and crops of photographs."""

from __future__ import annotations

import pytest
import torch
from skimage import data
from torch import nn

from realgen.detectors.base import Detector
from realgen.metrics import Encoder


class MeanDetector(Detector):
    """``p_fake`` = mean of all pixels."""

    def build(self):
        return nn.Linear(1, 1)

    def p_fake(self, network, images):
        return images.mean(dim=(1, 2, 3))


class PatchEncoder(Encoder):
    """Mean responses of a few random filters."""

    def build(self):
        torch.manual_seed(3)
        return nn.Sequential(nn.Conv2d(3, 12, 5, stride=3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def features(self, network, images):
        return network(images)


@pytest.fixture
def detector():
    return MeanDetector(batch_size=4)


@pytest.fixture
def encoder():
    return PatchEncoder(batch_size=4)


@pytest.fixture(scope="session")
def photographs():
    """96 crops [96, 3, 64, 64] of four photographs, in an order of chance."""
    crops = []
    for picture in (data.astronaut(), data.chelsea(), data.coffee(), data.rocket()):
        pixels = torch.from_numpy(picture).permute(2, 0, 1).float() / 255
        blocks = pixels.unfold(1, 64, 48).unfold(2, 64, 48).permute(1, 2, 0, 3, 4).flatten(0, 1)
        crops.append(blocks[torch.linspace(0, len(blocks) - 1, 24).long()])
    order = torch.randperm(96, generator=torch.Generator().manual_seed(0))
    return torch.cat(crops)[order]
