"""FLOPs and memory by hand, for code on the meta device."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from realgen.planning.meter import metered, num_bytes, total

META = torch.device("meta")


def test_work_is_told_by_the_rate_at_which_a_gpu_does_it() -> None:
    half, single = torch.empty(2, 3, device=META, dtype=torch.bfloat16), torch.empty(2, 3, device=META)
    with metered() as meter:
        half @ half.T
        single @ single.T
        F.conv2d(torch.empty(1, 2, 5, 5, device=META), torch.empty(4, 2, 3, 3, device=META))
    product, convolution = 2 * 2 * 3 * 2, 2 * 4 * 3 * 3 * (2 * 3 * 3)
    assert meter.work == {"bf16": product, "fp32": product, "tf32": convolution}


def test_memory_is_what_lives_at_the_same_time() -> None:
    given = torch.empty(256, device=META)
    with metered() as meter:
        kept = given + 1  # 1,024 bytes
        kept.add_(1)
        view = kept.view(16, 16)
        double = kept.double()  # 2,048 more
        assert (meter.held, meter.peak) == (3072, 3072)
        del double
        assert (meter.held, meter.peak) == (1024, 3072)
        del kept
        assert meter.held == 1024  # the view keeps it
        del view
        assert meter.held == 0
    assert num_bytes([given]) == 1024


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_attention_is_fused_forwards_and_backwards(recompute: bool) -> None:
    tokens, width = 512, 8

    def attend(x: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(x, x, x)

    query = torch.empty(1, 1, tokens, width, device=META, requires_grad=True)
    with metered() as meter:
        output = checkpoint(attend, query, use_reentrant=False) if recompute else attend(query)
        output.backward(torch.empty_like(output))
    forward = 4 * tokens**2 * width
    assert total(meter.work) == forward * (1 + 2.5 + recompute)  # five products backwards, two forwards
    assert meter.peak < tokens**2 * 4 / 4  # the matrix of weights was never there


def test_grouped_queries_are_counted_whole() -> None:
    query, key = torch.empty(1, 4, 16, 8, device=META), torch.empty(1, 2, 16, 8, device=META)
    with metered() as meter:
        output = F.scaled_dot_product_attention(query, key, key, is_causal=True, enable_gqa=True)
    assert output.shape == query.shape
    assert total(meter.work) == 4 * 4 * 16 * 16 * 8
