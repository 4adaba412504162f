"""Layers that score, against those that train, whose truth is in test_routed_network.py."""

import copy

import pytest
import torch
from torch import nn

from realgen.detectors.folded_layer import SHIFT, melt_norm


@pytest.fixture
def hidden():
    return torch.randn(3, 17, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_melted_norm_is_norm_and_map(hidden):
    generator = torch.Generator().manual_seed(1)
    norm, linear = nn.LayerNorm(24).double(), nn.Linear(24, 5).double()
    for parameter in (*norm.parameters(), *linear.parameters()):
        parameter.normal_(0, 3, generator=generator)
    melted = melt_norm(norm, linear.weight, linear.bias)
    shifted = nn.functional.layer_norm(hidden, (24,)) + SHIFT
    torch.testing.assert_close(shifted @ melted.T, linear(norm(hidden)), atol=1e-11, rtol=1e-11)


@torch.no_grad()
@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("network", ["omniaid_network", "omniaid_lora_network"])
def test_layer_answers_the_same(network, request, hidden, first_only):
    network = request.getfixturevalue(network).double()
    for name, parameter in network.named_parameters():
        if "norm" in name or "bias" in name:
            parameter.add_(torch.randn_like(parameter))
    layer = copy.deepcopy(network.encoder_layers[0])
    routed = network.config.num_experts - 1
    gates = torch.rand(3, routed, dtype=torch.float64)
    expected = layer(hidden, torch.cat([gates, gates.new_ones(3, 1)], dim=1), first_only=first_only)
    answer = network.fold().encoder_layers[0](hidden, gates, first_only=first_only)
    torch.testing.assert_close(answer, expected, atol=1e-10, rtol=1e-10)


@torch.no_grad()
def test_sums_are_taken_where_they_lie(omniaid_network, hidden):
    layer = omniaid_network.double().fold().encoder_layers[0]
    answer = layer(hidden, torch.zeros(3, omniaid_network.config.num_experts - 1, dtype=torch.float64))
    assert answer.data_ptr() == hidden.data_ptr()
