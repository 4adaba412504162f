"""The CLIP variant's names and sizes; what it has in common with the DINOv3 variant is in test_routed_network.py."""

import pytest
import torch

from realgen.detectors import OmniAIDConfig, OmniAIDNetwork, RoutedExperts


def test_names_are_the_published_ones(omniaid_network):
    names = set(omniaid_network.state_dict())
    linear = {"weight_main", "bias"} | {f"{part}_experts.{e}" for part in "USV" for e in range(4)}
    norms = {f"{norm}.{part}" for norm in ("layer_norm1", "layer_norm2") for part in ("weight", "bias")}
    mlp = {f"mlp.{fc}.{part}" for fc in ("fc1", "fc2") for part in ("weight", "bias")}
    layer = (
        {f"self_attn.{p}.{name}" for p in ("q_proj", "k_proj", "v_proj", "out_proj") for name in linear} | norms | mlp
    )
    outside = {f"{n}.{p}" for n in ("ln_pre", "ln_post", "head") for p in ("weight", "bias")}
    outside |= {f"gating_network.network.{i}.{p}" for i in (0, 2) for p in ("weight", "bias")}
    outside |= {f"embeddings.{n}" for n in ("class_embedding", "patch_embedding.weight", "position_embedding.weight")}
    assert names == outside | {f"encoder_layers.{i}.{name}" for i in (0, 1) for name in layer}


def test_public_build_has_the_second_tower(clip_tower):
    network = OmniAIDNetwork.from_clip_vision(clip_tower, RoutedExperts(rank=2, router_input="frozen_tower"))
    names = {name for name in network.state_dict() if name.startswith("feature_extractor.")}
    assert names == {f"feature_extractor.{name}" for name in clip_tower.state_dict()}


def test_published_recipe_trains_as_many_parameters_as_published():
    with torch.device("meta"):
        network = OmniAIDNetwork(OmniAIDConfig(rank=8))
    network.set_trainable("experts")
    count = sum(parameter.numel() for parameter in network.trainable_parameters().values())
    assert count == 96 * 6 * 2049 * 8 + 2050  # 9.44 M, as published


@pytest.mark.parametrize(
    ("scope", "inside", "outside"),
    [
        ("experts", {"experts", "head"}, {"gating_network", "mlp", "weight_main", "feature_extractor"}),
        ("experts_and_gate", {"experts", "head", "gating_network"}, {"mlp", "weight_main", "feature_extractor"}),
        ("all", {"experts", "head", "gating_network", "mlp", "weight_main", "embeddings"}, {"feature_extractor"}),
    ],
)
def test_scopes(clip_tower, scope, inside, outside):
    network = OmniAIDNetwork.from_clip_vision(clip_tower, RoutedExperts(rank=2, router_input="frozen_tower"))
    network.set_trainable(scope)
    names = " ".join(network.trainable_parameters())
    assert all(part in names for part in inside)
    assert not any(part in names for part in outside)


def test_trains_under_autocast(omniaid_network, images):
    exact = omniaid_network(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = omniaid_network(images)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, atol=0.1, rtol=0.1)
    rough.sum().backward()
