import copy

import pytest
import torch
from torch.nn import functional as F

from realgen.detectors import OmniAIDConfig, OmniAIDNetwork
from realgen.detectors.clip_vision import PROJECTIONS
from realgen.detectors.pixels import clip_pixels


def with_attention(tower, network, gates):
    """The CLIP tower whose attention weights are W_main + sum_e g_e U_e diag(S_e) V_e, built by transformers."""
    tower = copy.deepcopy(tower)
    for layer, source in zip(tower.encoder.layers, network.encoder_layers, strict=True):
        for name in PROJECTIONS:
            experts = getattr(source.self_attn, name)
            weight = experts.weight_main.clone()
            for gate, u, s, v in zip(gates, experts.U_experts, experts.S_experts, experts.V_experts, strict=True):
                weight += gate * u @ torch.diag(s) @ v
            getattr(layer.self_attn, name).weight.data = weight
    return tower


@torch.no_grad()
@pytest.mark.parametrize("router_input", ["patch_embeddings", "frozen_tower"])
def test_starts_as_clip_when_the_gates_sum_to_one(clip_tower, images, router_input):
    network = OmniAIDNetwork.from_clip_vision(clip_tower, rank=3, hybrid=False, router_input=router_input)
    expected = clip_tower(pixel_values=clip_pixels(images, 32)).pooler_output
    torch.testing.assert_close(network.features(images), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_hybrid_starts_with_the_residual_counted_twice(clip_tower, images):
    network = OmniAIDNetwork.from_clip_vision(clip_tower, rank=3, num_experts=3, hybrid=True)
    pixels = clip_pixels(images, 32)
    doubled = with_attention(clip_tower, network, gates=(1.0, 0.0, 1.0))(pixel_values=pixels).pooler_output
    torch.testing.assert_close(network.features(images), doubled, atol=1e-5, rtol=1e-5)
    assert (doubled - clip_tower(pixel_values=pixels).pooler_output).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("router_input", ["patch_embeddings", "frozen_tower"])
def test_each_image_sees_the_weights_that_its_router_chose(clip_tower, images, router_input):
    torch.manual_seed(3)
    network = OmniAIDNetwork.from_clip_vision(
        clip_tower, num_experts=4, rank=3, top_k=2, router_hidden=8, router_input=router_input
    ).eval()
    for name, parameter in network.named_parameters():
        if "_experts." in name or "gating_network" in name:
            parameter.add_(0.5 * torch.randn_like(parameter))

    pixels = clip_pixels(images, 32)
    if router_input == "patch_embeddings":
        seen = clip_tower.embeddings(pixels)[:, 1:].mean(1)
    else:
        seen = clip_tower(pixel_values=pixels).pooler_output
    first, _, last = network.gating_network.network
    logits = F.linear(F.linear(seen, first.weight, first.bias).relu(), last.weight)
    last.bias.copy_(-logits.mean(0))  # centred, so that the images differ in what they choose
    logits = logits - logits.mean(0)
    torch.testing.assert_close(network.router_logits(images), logits, atol=1e-5, rtol=1e-5)

    chosen = set()
    for index, row in enumerate(logits):
        best = row.argsort(descending=True)[:2]
        chosen.add(tuple(sorted(best.tolist())))
        gates = torch.zeros(4)
        gates[best] = row[best].exp() / row[best].exp().sum()
        gates[3] = 1.0
        expected = with_attention(clip_tower, network, gates)(pixel_values=pixels[index : index + 1]).pooler_output
        torch.testing.assert_close(network.features(images)[index], expected[0], atol=2e-5, rtol=1e-4)
    assert len(chosen) > 1, "all images chose alike: the test would not see a wrong route"


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
    network = OmniAIDNetwork.from_clip_vision(clip_tower, rank=2, router_input="frozen_tower")
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
    network = OmniAIDNetwork.from_clip_vision(clip_tower, rank=2, router_input="frozen_tower")
    network.set_trainable(scope)
    names = " ".join(network.trainable_parameters())
    assert all(part in names for part in inside)
    assert not any(part in names for part in outside)


def test_learns_and_leaves_the_frozen_part_alone(clip_tower, images):
    torch.manual_seed(0)
    network = OmniAIDNetwork.from_clip_vision(clip_tower, rank=2, dropout=0.1).train()
    before = copy.deepcopy(network.state_dict())
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    optimizer = torch.optim.AdamW(network.trainable_parameters().values(), lr=1e-2)
    bases, losses = network.main_bases(), []
    for _ in range(30):
        loss = F.cross_entropy(network(images), labels) + 0.001 * network.orthogonality_loss(bases)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    trainable = set(network.trainable_parameters())
    assert moved <= trainable
    assert {"head.weight", "encoder_layers.0.self_attn.q_proj.U_experts.5"} <= moved


def test_trains_under_autocast(omniaid_network, images):
    exact = omniaid_network(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = omniaid_network(images)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, atol=0.1, rtol=0.1)
    rough.sum().backward()
