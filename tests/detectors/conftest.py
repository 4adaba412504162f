"""Tiny random detectors on disk. A detector class ``Name`` joins the contract tests with a fixture ``tiny_name``."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, DINOv3ViTConfig, DINOv3ViTModel

from experiments.nano.forensic_chat import build_network
from realgen.detectors import Effort, EffortNetwork, OmniAID, OmniAIDNetwork
from realgen.detectors.checkpoint import save
from realgen.detectors.configs import RoutedExperts
from realgen.detectors.forensic_chat import ForensicChat
from realgen.detectors.linear_probe import LinearProbe, ProbeConfig, load_backbone, save_probe
from realgen.detectors.omniaid_dino import OmniAIDDino, OmniAIDDinoNetwork
from realgen.functional.logistic_regression import LogisticHead


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
    network = OmniAIDNetwork.from_clip_vision(
        clip_tower, RoutedExperts(num_experts=4, rank=3, top_k=2, router_hidden=8)
    )
    return scramble(network, 0.1).eval()


@pytest.fixture
def omniaid_lora_network(clip_tower):
    """OmniAID with adapters for experts, which moved, and the public build's router."""
    network = OmniAIDNetwork.from_clip_vision(
        clip_tower,
        RoutedExperts(num_experts=3, rank=2, top_k=1, router_hidden=8, expert_type="lora", router_input="frozen_tower"),
    )
    return scramble(network, 0.1).eval()


@pytest.fixture
def dino_tower():
    """A random DINOv3: 2 layers, 32 pixels, width 24, 2 registers, layer scales and biases far from their start."""
    torch.manual_seed(0)
    config = DINOv3ViTConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        patch_size=8,
        image_size=32,
        num_register_tokens=2,
    )
    return scramble(DINOv3ViTModel(config), 0.2).eval()


@pytest.fixture
def omniaid_dino_network(dino_tower):
    """OmniAID on DINOv3, with experts that differ and a router that decides."""
    experts = RoutedExperts(num_experts=4, rank=3, top_k=2, router_hidden=8, router_input="frozen_tower")
    return scramble(OmniAIDDinoNetwork.from_dinov3(dino_tower, experts), 0.1).eval()


@pytest.fixture
def effort_network(clip_tower):
    """Effort on the tower, with residuals that moved."""
    return scramble(EffortNetwork.from_clip_vision(clip_tower, rank=2), 0.1).eval()


@pytest.fixture
def tiny_omniaid(omniaid_network, tmp_path):
    return OmniAID(str(save(omniaid_network, tmp_path / "omniaid")), batch_size=4)


@pytest.fixture
def tiny_omniaiddino(omniaid_dino_network, tmp_path):
    return OmniAIDDino(str(save(omniaid_dino_network, tmp_path / "omniaid_dino")), batch_size=4)


@pytest.fixture
def tiny_effort(effort_network, tmp_path):
    return Effort(str(save(effort_network, tmp_path / "effort")), batch_size=4)


@pytest.fixture
def tiny_forensicchat(tmp_path):
    network = build_network()
    scramble(network.model, 0.2).save_pretrained(tmp_path / "forensic_chat")
    network.processor.save_pretrained(tmp_path / "forensic_chat")
    return ForensicChat(str(tmp_path / "forensic_chat"), dtype="float32", batch_size=4)


@pytest.fixture
def tiny_linearprobe(tmp_path):
    """A probe on timm's smallest ViT, random and read from a file with its classifier."""
    torch.manual_seed(0)
    network = scramble(timm.create_model("test_vit"), 0.05)
    save_file(network.state_dict(), tmp_path / "vit.safetensors")
    backbone = load_backbone("test_vit", str(tmp_path / "vit.safetensors"))
    head = LogisticHead(0.3 * torch.randn(backbone.tower.num_features), torch.tensor(0.1))
    save_probe(tmp_path / "probe", backbone, head, ProbeConfig("test_vit", str(tmp_path / "vit.safetensors")))
    return LinearProbe(str(tmp_path / "probe"), batch_size=4)


@pytest.fixture
def images():
    """Six images of 40 x 48 pixels, each of its own colour and roughness."""
    generator = torch.Generator().manual_seed(2)
    colour = torch.rand(6, 3, 1, 1, generator=generator)
    noise = torch.rand(6, 3, 40, 48, generator=generator)
    return colour.lerp(noise, torch.linspace(0.1, 0.9, 6).view(6, 1, 1, 1))
