import pytest
import torch

from realgen.detectors.omniaid_layers import OmniAIDConfig, sparse_gates


def test_sparse_gates_by_hand():
    gates = sparse_gates(torch.tensor([[0.0, 1.0, 3.0], [2.0, -9.0, 2.0]]), top_k=2)
    low = 1 / (1 + torch.e**2)
    torch.testing.assert_close(gates, torch.tensor([[0.0, low, 1 - low], [0.5, 0.0, 0.5]]))
    assert sparse_gates(torch.tensor([[0.0, 1.0, 3.0]]), top_k=1).tolist() == [[0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"rank": 0}, "rank must be between 1 and 1023, got 0"),
        ({"rank": 1024}, "rank must be between 1 and 1023, got 1024"),
        ({"top_k": 6}, "top_k must be between 1 and the 5 routed experts"),
        ({"top_k": 0}, "top_k must be between 1"),
        ({"num_experts": 1}, "top_k must be between 1 and the 0 routed experts"),
        ({"router_input": "pixels"}, "router_input must be one of patch_embeddings, frozen_tower, got 'pixels'"),
        ({"preprocess": "v3"}, "preprocess must be one of v1, v2, got 'v3'"),
    ],
)
def test_impossible_configs(numbers, message):
    with pytest.raises(ValueError, match=message):
        OmniAIDConfig(**numbers)
