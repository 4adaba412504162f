import pytest
import torch

from realgen.detectors import OmniAIDNetwork, RoutedExperts
from realgen.detectors.expert_linear import ExpertLinear, MergedExpertLinear
from realgen.detectors.lora_experts import LoRAExpertLinear
from realgen.detectors.svd_experts import SVDExpertLinear

KINDS = [SVDExpertLinear, LoRAExpertLinear]


def experts(kind, *, bias=True, num_experts=4, rank=2):
    """In float64, every number at random."""
    linear = kind(8, num_experts, rank, bias=bias).double().requires_grad_(False)
    for parameter in linear.parameters():
        parameter.normal_()
    return linear


def routed_gates(rows, routed):
    return torch.rand(rows, routed, dtype=torch.float64) * (torch.rand(rows, routed) < 0.6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("always_on", [0, 1, 2, 4])
def test_merging_is_exact(kind, bias, always_on):
    linear = experts(kind, bias=bias)
    hidden, gates = torch.randn(3, 5, 8, dtype=torch.float64), routed_gates(3, 4 - always_on)
    expected = linear(hidden, torch.cat([gates, gates.new_ones(3, always_on)], dim=1))
    merged = linear.merged(always_on)
    torch.testing.assert_close(merged(hidden, gates), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_merged_map_does_not_follow_the_experts_any_more(kind):
    """Nothing is stacked per call: what was merged is the answer, whatever becomes of the experts."""
    linear = experts(kind)
    hidden, gates = torch.randn(2, 5, 8, dtype=torch.float64), routed_gates(2, 3)
    merged = linear.merged(1)
    before = merged(hidden, gates)
    for name, parameter in linear.named_parameters():
        if name != "bias":
            parameter.zero_()
    assert torch.equal(merged(hidden, gates), before)


@pytest.mark.parametrize("kind", KINDS)
def test_input_is_left_alone(kind):
    merged = experts(kind).merged(1)
    hidden = torch.randn(2, 5, 8, dtype=torch.float64)
    before = hidden.clone()
    merged(hidden, routed_gates(2, 3))
    assert torch.equal(hidden, before)


@torch.no_grad()
@pytest.mark.parametrize("name", ["omniaid_network", "omniaid_lora_network", "omniaid_dino_network", "effort_network"])
def test_merged_networks_answer_the_same(name, request, images):
    network = request.getfixturevalue(name).double()
    expected = network(images.double())
    assert network.merge() is network
    torch.testing.assert_close(network(images.double()), expected, atol=1e-10, rtol=1e-10)
    assert not [module for module in network.modules() if isinstance(module, ExpertLinear)]
    assert network.merge() is network
    torch.testing.assert_close(network(images.double()), expected, atol=1e-10, rtol=1e-10)
    assert not network.training
    assert not network.trainable_parameters()


@torch.no_grad()
def test_merging_without_an_always_on_expert(clip_tower, images):
    network = (
        OmniAIDNetwork.from_clip_vision(clip_tower, RoutedExperts(num_experts=3, rank=2, hybrid=False)).double().eval()
    )
    expected = network(images.double())
    torch.testing.assert_close(network.merge()(images.double()), expected, atol=1e-10, rtol=1e-10)


def test_merged_map_takes_as_many_gates_as_there_are_routed_experts():
    merged = experts(SVDExpertLinear).merged(1)
    assert isinstance(merged, MergedExpertLinear)
    assert merged.down.shape == (6, 8)
    assert merged.up.shape == (6, 8)
