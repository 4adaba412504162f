"""Tiny random detectors on disk. A detector class ``Name`` joins the contract tests with a fixture ``tiny_name``."""

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from realgen.detectors import Effort, EffortNetwork, OmniAID, OmniAIDNetwork
from realgen.detectors.checkpoint import save


def scramble(module, std):
    """Move every parameter, so that no two experts and no two images look alike."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(std * torch.randn(parameter.shape, generator=generator))
    return module


@pytest.fixture
def clip_tower():
    """A random CLIP vision tower: 2 layers, 32 pixels, width 24, every weight far from its initial value."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        patch_size=8,
        image_size=32,
    )
    return scramble(CLIPVisionModel(config), 0.2).eval()


@pytest.fixture
def omniaid_network(clip_tower):
    """OmniAID on the tower, with experts that differ and a router that decides."""
    network = OmniAIDNetwork.from_clip_vision(clip_tower, num_experts=4, rank=3, top_k=2, router_hidden=8)
    return scramble(network, 0.1).eval()


@pytest.fixture
def effort_network(clip_tower):
    """Effort on the tower, with residuals that moved."""
    return scramble(EffortNetwork.from_clip_vision(clip_tower, rank=2), 0.1).eval()


@pytest.fixture
def tiny_omniaid(omniaid_network, tmp_path):
    return OmniAID(str(save(omniaid_network, tmp_path / "omniaid")), batch_size=4)


@pytest.fixture
def tiny_effort(effort_network, tmp_path):
    return Effort(str(save(effort_network, tmp_path / "effort")), batch_size=4)


@pytest.fixture
def images():
    """Six images of 40 x 48 pixels, each of its own colour and roughness."""
    generator = torch.Generator().manual_seed(2)
    colour = torch.rand(6, 3, 1, 1, generator=generator)
    noise = torch.rand(6, 3, 40, 48, generator=generator)
    return colour.lerp(noise, torch.linspace(0.1, 0.9, 6).view(6, 1, 1, 1))
