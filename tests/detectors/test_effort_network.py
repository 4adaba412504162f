import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from realgen.detectors import EffortConfig, EffortNetwork
from realgen.detectors.vision_towers import PROJECTIONS
from realgen.functional.network_input import tower_pixels


@torch.no_grad()
@pytest.mark.parametrize("rank", [1, 5])
def test_starts_as_clip(clip_tower, images, rank):
    expected = clip_tower(pixel_values=tower_pixels(images, 32)).pooler_output
    network = EffortNetwork.from_clip_vision(clip_tower, rank=rank)
    torch.testing.assert_close(network.features(images), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_moved_residual_is_that_of_the_whole_weight(clip_tower, effort_network, images):
    for layer, source in zip(clip_tower.encoder.layers, effort_network.backbone.encoder.layers, strict=True):
        for name in PROJECTIONS:
            split, plain = getattr(source.self_attn, name), getattr(layer.self_attn, name)
            plain.weight.copy_(split.weight_main + split.U_residual @ torch.diag(split.S_residual) @ split.V_residual)
            plain.bias.copy_(split.bias)
    others = {name: value for name, value in effort_network.backbone.state_dict().items() if "self_attn" not in name}
    clip_tower.load_state_dict(others, strict=False)
    expected = clip_tower(pixel_values=tower_pixels(images, 32)).pooler_output
    torch.testing.assert_close(effort_network.features(images), expected, atol=1e-5, rtol=1e-5)


def test_names_are_the_published_ones(effort_network):
    names = set(effort_network.state_dict())
    assert {
        "head.weight",
        "head.bias",
        "backbone.post_layernorm.weight",
        "backbone.embeddings.class_embedding",
    } <= names
    linear = "backbone.encoder.layers.1.self_attn.out_proj."
    assert {name.removeprefix(linear) for name in names if name.startswith(linear)} == {
        "weight_main",
        "bias",
        "U_residual",
        "S_residual",
        "V_residual",
    }


@torch.no_grad()
def test_merged_it_is_a_plain_clip_tower(effort_network, images):
    network = effort_network.double()
    expected = network(images.double())
    torch.testing.assert_close(network.merge()(images.double()), expected, atol=1e-10, rtol=1e-10)
    maps = [module for name, module in network.backbone.named_modules() if name.endswith(PROJECTIONS)]
    assert len(maps) == 2 * 4
    assert all(isinstance(module, nn.Linear) for module in maps)


@torch.no_grad()
def test_images_can_be_resized_without_antialiasing(clip_tower, images):
    network = EffortNetwork.from_clip_vision(clip_tower).eval()
    network.config = dataclasses.replace(network.config, antialias=False)
    expected = clip_tower(pixel_values=tower_pixels(images, 32, antialias=False)).pooler_output
    torch.testing.assert_close(network.features(images), expected, atol=1e-5, rtol=1e-5)
    assert (
        network.features(images) - clip_tower(pixel_values=tower_pixels(images, 32)).pooler_output
    ).abs().max() > 0.01


def test_published_recipe_trains_residuals_and_head():
    with torch.device("meta"):
        network = EffortNetwork(EffortConfig(num_hidden_layers=2))
    count = sum(parameter.numel() for parameter in network.trainable_parameters().values())
    assert count == 2 * 4 * 2049 + 2050
    network.set_trainable("all")
    assert len(network.trainable_parameters()) == len(list(network.parameters()))


def test_learns_and_leaves_the_frozen_part_alone(clip_tower, images):
    torch.manual_seed(0)
    network = EffortNetwork.from_clip_vision(clip_tower, rank=2).train()
    before = copy.deepcopy(network.state_dict())
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    optimizer = torch.optim.AdamW(network.trainable_parameters().values(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == set(network.trainable_parameters())


@pytest.mark.parametrize("rank", [0, 1024])
def test_impossible_rank(rank):
    with pytest.raises(ValueError, match=f"rank must be between 1 and 1023, got {rank}"):
        EffortConfig(rank=rank)
