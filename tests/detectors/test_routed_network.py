"""OmniAID's routing on both towers. The truth is transformers' tower with an image's own weights written into it."""

import copy
from functools import partial
from operator import attrgetter

import pytest
import torch
from torch.nn import functional as F

from realgen.detectors import OmniAIDNetwork
from realgen.detectors.configs import RoutedExperts
from realgen.detectors.omniaid_dino import OmniAIDDinoNetwork
from realgen.detectors.routed_network import sparse_gates
from realgen.detectors.vision_towers import DINO_PROJECTIONS, PROJECTIONS
from realgen.functional.network_input import IMAGENET_MEAN, IMAGENET_STD, tower_pixels

ROUTER_INPUTS = pytest.mark.parametrize("router_input", ["patch_embeddings", "frozen_tower"])


class OnClip:
    pixels, projections, prefix_tokens = staticmethod(tower_pixels), PROJECTIONS, 1
    tower_layers, network_layers, attention = "encoder.layers", "encoder_layers", "self_attn"

    def __init__(self, clip_tower):
        self.tower = clip_tower

    def make(self, **experts):
        return OmniAIDNetwork.from_clip_vision(self.tower, RoutedExperts(**experts))


class OnDino:
    pixels, projections, prefix_tokens = (
        staticmethod(partial(tower_pixels, mean=IMAGENET_MEAN, std=IMAGENET_STD)),
        DINO_PROJECTIONS,
        3,
    )
    tower_layers, network_layers, attention = "model.layer", "layer", "attention"

    def __init__(self, dino_tower):
        self.tower = dino_tower

    def make(self, **experts):
        return OmniAIDDinoNetwork.from_dinov3(self.tower, RoutedExperts(**experts))


@pytest.fixture(params=[(OnClip, "clip_tower"), (OnDino, "dino_tower")], ids=["clip", "dino"])
def build(request):
    """A random tower, and how OmniAID is made of it."""
    kind, tower = request.param
    return kind(request.getfixturevalue(tower))


def pooled(build, images, tower=None):
    """What transformers' own tower says of images."""
    return (tower or build.tower)(pixel_values=build.pixels(images, 32)).pooler_output


def with_attention(build, network, gates):
    """The tower whose attention weights are W_main + sum_e g_e U_e diag(S_e) V_e, built by transformers."""
    tower = copy.deepcopy(build.tower)
    layers, sources = attrgetter(build.tower_layers)(tower), attrgetter(build.network_layers)(network)
    for layer, source in zip(layers, sources, strict=True):
        for name in build.projections:
            experts = getattr(getattr(source, build.attention), name)
            weight = experts.weight_main.clone()
            for gate, u, s, v in zip(gates, experts.U_experts, experts.S_experts, experts.V_experts, strict=True):
                weight += gate * u @ torch.diag(s) @ v
            getattr(getattr(layer, build.attention), name).weight.data = weight
    return tower


@torch.no_grad()
@ROUTER_INPUTS
@pytest.mark.parametrize("expert_type", ["svd", "lora"])
def test_starts_as_the_tower_when_the_gates_sum_to_one(build, images, expert_type, router_input):
    network = build.make(num_experts=3, rank=2, hybrid=False, router_input=router_input, expert_type=expert_type).eval()
    torch.testing.assert_close(network.features(images), pooled(build, images), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_hybrid_starts_with_the_residual_counted_twice(build, images):
    network = build.make(rank=3, num_experts=3, hybrid=True).eval()
    doubled = pooled(build, images, with_attention(build, network, gates=(1.0, 0.0, 1.0)))
    torch.testing.assert_close(network.features(images), doubled, atol=1e-5, rtol=1e-5)
    assert (doubled - pooled(build, images)).abs().max() > 1e-2


@torch.no_grad()
@ROUTER_INPUTS
def test_each_image_sees_the_weights_that_its_router_chose(build, images, router_input):
    torch.manual_seed(3)
    network = build.make(num_experts=4, rank=3, top_k=2, router_hidden=8, router_input=router_input).eval()
    for name, parameter in network.named_parameters():
        if "_experts." in name or "gating_network" in name:
            parameter.add_(0.5 * torch.randn_like(parameter))

    if router_input == "patch_embeddings":
        seen = build.tower.embeddings(build.pixels(images, 32))[:, build.prefix_tokens :].mean(1)
    else:
        seen = pooled(build, images)
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
        expected = pooled(build, images[index : index + 1], with_attention(build, network, gates))
        torch.testing.assert_close(network.features(images)[index], expected[0], atol=2e-5, rtol=1e-4)
    assert len(chosen) > 1, "all images chose alike: the test would not see a wrong route"


def test_learns_and_leaves_the_frozen_part_alone(build, images):
    torch.manual_seed(0)
    network = build.make(num_experts=3, rank=2, dropout=0.1, router_input="frozen_tower").train()
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
    artifact = f"{build.network_layers}.0.{build.attention}.q_proj.U_experts.2"
    assert {"head.weight", artifact} <= moved


def test_sparse_gates_by_hand():
    gates = sparse_gates(torch.tensor([[0.0, 1.0, 3.0], [2.0, -9.0, 2.0]]), top_k=2)
    low = 1 / (1 + torch.e**2)
    torch.testing.assert_close(gates, torch.tensor([[0.0, low, 1 - low], [0.5, 0.0, 0.5]]))
    assert sparse_gates(torch.tensor([[0.0, 1.0, 3.0]]), top_k=1).tolist() == [[0.0, 0.0, 1.0]]


def layer_input(network):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 17, 24, generator=generator)
    return hidden, torch.rand(3, network.config.num_experts, generator=generator)


@torch.no_grad()
def test_the_class_token_alone_gets_the_same_answer(omniaid_network):
    hidden, gates = layer_input(omniaid_network)
    attention = omniaid_network.encoder_layers[1].self_attn
    alone, _ = attention(hidden, gates, first_only=True)
    assert alone.shape == (3, 1, 24)
    torch.testing.assert_close(alone[:, 0], attention(hidden, gates)[0][:, 0], atol=1e-5, rtol=1e-5)
