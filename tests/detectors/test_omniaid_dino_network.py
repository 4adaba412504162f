import copy

import pytest
import torch
from torch.nn import functional as F

from realgen.detectors.dinov3 import DINO_PROJECTIONS
from realgen.detectors.omniaid_config import RoutedExperts
from realgen.detectors.omniaid_dino_network import OmniAIDDinoNetwork
from realgen.detectors.pixels import imagenet_pixels


@torch.no_grad()
@pytest.mark.parametrize("expert_type", ["svd", "lora"])
@pytest.mark.parametrize("router_input", ["patch_embeddings", "frozen_tower"])
def test_starts_as_dino_when_the_gates_sum_to_one(dino_tower, images, expert_type, router_input):
    experts = RoutedExperts(num_experts=3, rank=2, hybrid=False, router_input=router_input, expert_type=expert_type)
    network = OmniAIDDinoNetwork.from_dinov3(dino_tower, experts).eval()
    expected = dino_tower(pixel_values=imagenet_pixels(images, 32)).pooler_output
    torch.testing.assert_close(network.features(images), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("router_input", ["patch_embeddings", "frozen_tower"])
def test_each_image_sees_the_weights_that_its_router_chose(dino_tower, images, router_input):
    """The truth is transformers' DINOv3 with W_main + sum_e g_e U_e diag(S_e) V_e written into its attention."""
    torch.manual_seed(3)
    experts = RoutedExperts(num_experts=4, rank=3, top_k=2, router_hidden=8, router_input=router_input)
    network = OmniAIDDinoNetwork.from_dinov3(dino_tower, experts).eval()
    for name, parameter in network.named_parameters():
        if "_experts." in name or "gating_network" in name:
            parameter.add_(0.5 * torch.randn_like(parameter))
    pixels = imagenet_pixels(images, 32)
    if router_input == "patch_embeddings":
        seen = dino_tower.embeddings(pixels)[:, 3:].mean(1)
    else:
        seen = dino_tower(pixel_values=pixels).pooler_output
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
        gates[best] = row[best].softmax(0)
        gates[3] = 1.0
        expected = with_attention(dino_tower, network, gates)(pixel_values=pixels[index : index + 1]).pooler_output
        torch.testing.assert_close(network.features(images)[index], expected[0], atol=2e-5, rtol=1e-4)
    assert len(chosen) > 1, "all images chose alike: the test would not see a wrong route"


def with_attention(tower, network, gates):
    tower = copy.deepcopy(tower)
    for layer, source in zip(tower.model.layer, network.layer, strict=True):
        for name in DINO_PROJECTIONS:
            experts = getattr(source.attention, name)
            weight = experts.weight_main.clone()
            for gate, u, s, v in zip(gates, experts.U_experts, experts.S_experts, experts.V_experts, strict=True):
                weight += gate * u @ torch.diag(s) @ v
            getattr(layer.attention, name).weight.data = weight
    return tower


def test_names_are_the_published_ones(omniaid_dino_network, dino_tower):
    names = set(omniaid_dino_network.state_dict())
    experts = {"weight_main"} | {f"{part}_experts.{e}" for part in "USV" for e in range(4)}
    attention = {f"attention.{p}.{name}" for p in DINO_PROJECTIONS for name in experts}
    attention |= {f"attention.{p}.bias" for p in ("q_proj", "v_proj", "o_proj")}  # DINOv3's keys have none
    parts = ("norm1", "norm2", "mlp.up_proj", "mlp.down_proj")
    layer = {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}
    layer |= {"layer_scale1.lambda1", "layer_scale2.lambda1"} | attention
    outside = {f"{n}.{p}" for n in ("norm", "head") for p in ("weight", "bias")}
    outside |= {f"gating_network.network.{i}.{p}" for i in (0, 2) for p in ("weight", "bias")}
    patches = ("cls_token", "mask_token", "register_tokens", "patch_embeddings.weight", "patch_embeddings.bias")
    outside |= {f"embeddings.{name}" for name in patches}
    outside |= {f"feature_extractor.{name}" for name in dino_tower.state_dict()}
    assert names == outside | {f"layer.{i}.{name}" for i in (0, 1) for name in layer}


def test_learns_and_leaves_the_frozen_part_alone(dino_tower, images):
    torch.manual_seed(0)
    experts = RoutedExperts(num_experts=3, rank=2, dropout=0.1, router_input="frozen_tower")
    network = OmniAIDDinoNetwork.from_dinov3(dino_tower, experts).train()
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
    assert moved <= set(network.trainable_parameters())
    assert {"head.weight", "layer.0.attention.o_proj.U_experts.2"} <= moved
