import torch

from realgen.detectors.omniaid_layers import sparse_gates


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
    layer = omniaid_network.encoder_layers[1]
    alone = layer(hidden, gates, first_only=True)
    assert alone.shape == (3, 1, 24)
    torch.testing.assert_close(alone[:, 0], layer(hidden, gates)[:, 0], atol=1e-5, rtol=1e-5)
