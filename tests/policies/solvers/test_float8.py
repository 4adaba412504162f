"""Float8 outside the window: how far its products are from exact ones, and what stays as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from realgen.policies.solvers import Float8
from tests.helpers.shadow_device import shadow_device

PRODUCT, SUM = (1 + 2**-4) ** 2 - 1, 2**-8
"""Most by which rounding both factors to three bits of mantissa moves their product, and a sum in bfloat16."""


def layer(inputs: int = 64, outputs: int = 48) -> nn.Linear:
    made = nn.Linear(inputs, outputs)
    made.weight.data *= torch.logspace(-3, 3, outputs).unsqueeze(1)  # rows of very different size
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_each_product_is_within_the_rounding_of_its_factors(dtype: torch.dtype) -> None:
    network, inputs = layer().to(dtype), torch.randn(2, 5, 64, dtype=dtype) * torch.tensor([1e-4, 1e3]).view(2, 1, 1)
    inputs = inputs.to(dtype)
    inputs[0, 0] = 0
    weight = network.weight.clone()
    with Float8(16).outside("cpu"):
        found = network(inputs)
    assert (found.dtype, found.shape) == (dtype, (2, 5, 48))
    exact = inputs.double() @ weight.double().T
    sizes = inputs.double().abs() @ weight.double().abs().T
    # What is below the smallest normal number of a row, its largest one being 448, moves by half of the smallest step.
    small = 2.0**-10 / 448
    rows, columns = (each.double().abs() for each in (inputs, weight))
    lost = rows.amax(-1, keepdim=True) * columns.sum(1) + rows.sum(-1, keepdim=True) * columns.amax(1)
    error = (found.double() - network.bias.double() - exact).abs()
    bound = PRODUCT * sizes + 2 * small * lost + 2 * SUM * (exact.abs() + sizes + network.bias.double().abs())
    assert bool((error <= bound).all())
    assert error.mean() > 0.001 * exact.abs().mean()  # and it was float8
    assert found[0, 0].float().allclose(network.bias.float(), rtol=1e-2)
    assert torch.equal(network.weight, weight)


@torch.no_grad()
def test_small_layers_odd_ones_and_all_behind_it_are_exact_to_the_bit() -> None:
    networks, inputs = [layer(), layer(64, 8), layer(64, 40)], torch.randn(3, 64)
    exact = [network(inputs) for network in networks]
    with Float8(16).outside("cpu"):
        found = [network(inputs) for network in networks]
    assert [torch.equal(*pair) for pair in zip(exact, found, strict=True)] == [False, True, True]
    assert torch.equal(networks[0](inputs), exact[0])
    with Float8().outside("cpu"):  # sides below 256
        assert torch.equal(networks[0](inputs), exact[0])


@torch.no_grad()
def test_under_autocast_and_on_a_gpu() -> None:
    network, inputs = layer(), torch.randn(3, 64)
    with torch.autocast("cpu", torch.bfloat16), Float8(16).outside("cpu"):
        assert network(inputs).dtype == torch.bfloat16
    with Float8(16).outside("cpu"):
        expected = network(inputs)
    with shadow_device(), Float8(16).outside("cuda"):
        found = network.to("cuda")(inputs.to("cuda"))
        assert torch.equal(found.cpu(), expected)


def test_a_least_side_below_the_kernels_is_refused() -> None:
    with pytest.raises(ValueError, match="least_side must be at least 16, got 8"):
        Float8(8)
