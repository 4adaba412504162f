import math

import pytest
import torch
from torch.nn import functional as F

from realgen.detectors.svd_experts import SVDExpertLinear, orthogonality_loss, overlap, split_weight


@pytest.fixture
def weight():
    return torch.randn(8, 8, generator=torch.Generator().manual_seed(0))


def test_split_of_a_diagonal_matrix_is_known():
    split = split_weight(torch.diag(torch.tensor([5.0, 1.0, 3.0])), rank=2)
    torch.testing.assert_close(split.main, torch.diag(torch.tensor([5.0, 0.0, 0.0])))
    assert split.s.tolist() == [3.0, 1.0]
    torch.testing.assert_close(split.u * split.s @ split.v, torch.diag(torch.tensor([0.0, 1.0, 3.0])))


def test_parts_add_up_and_the_main_part_lacks_the_smallest_values(weight):
    split = split_weight(weight, rank=3)
    torch.testing.assert_close(split.main + split.u * split.s @ split.v, weight)
    values = torch.linalg.svdvals(weight)
    torch.testing.assert_close(torch.linalg.svdvals(split.main)[:5], values[:5])
    assert torch.linalg.svdvals(split.main)[5:].max() < 1e-5
    torch.testing.assert_close(split.s, values[5:])


@pytest.mark.parametrize("rank", [0, 8, 9])
def test_rank_must_leave_something_on_both_sides(weight, rank):
    with pytest.raises(ValueError, match=f"rank must be between 1 and 7, got {rank}"):
        split_weight(weight, rank)


def experts_of(weight, num_experts, rank):
    linear = SVDExpertLinear(8, num_experts, rank)
    linear.copy_from(weight, torch.arange(8.0))
    return linear


def test_gates_weigh_each_image_by_its_own_experts(weight):
    linear = experts_of(weight, num_experts=3, rank=2)
    with torch.no_grad():
        for parameter in (*linear.U_experts, *linear.S_experts, *linear.V_experts):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    hidden = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    gates = torch.tensor([[0.3, 0.0, 1.0], [0.0, 0.7, 0.3]])
    for image, row in enumerate(gates):
        whole = linear.weight_main.clone()
        for gate, u, s, v in zip(row, linear.U_experts, linear.S_experts, linear.V_experts, strict=True):
            whole += gate * u @ torch.diag(s) @ v
        expected = F.linear(hidden[image], whole, linear.bias)
        torch.testing.assert_close(linear(hidden, gates)[image], expected, atol=1e-5, rtol=1e-5)


def test_gates_that_sum_to_one_give_the_original_map_at_the_start(weight):
    linear = experts_of(weight, num_experts=4, rank=2)
    hidden = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    gates = torch.tensor([[0.25, 0.75, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    torch.testing.assert_close(linear(hidden, gates), F.linear(hidden, weight, torch.arange(8.0)), atol=1e-5, rtol=1e-5)


def test_dropout_hits_the_experts_and_only_in_training(weight):
    linear = SVDExpertLinear(8, 1, 2, dropout=0.999999)
    linear.copy_from(weight, torch.zeros(8))
    hidden, gates = torch.ones(1, 1, 8), torch.ones(1, 1)
    torch.testing.assert_close(linear.train()(hidden, gates), F.linear(hidden, linear.weight_main))
    torch.testing.assert_close(linear.eval()(hidden, gates), F.linear(hidden, weight), atol=1e-5, rtol=1e-5)


def test_main_bases_come_back_from_the_main_part(weight):
    u_main, v_main = experts_of(weight, num_experts=2, rank=3).main_bases()
    u, _, v = torch.linalg.svd(weight)
    torch.testing.assert_close(u_main @ u_main.T, u[:, :5] @ u[:, :5].T, atol=1e-5, rtol=0)
    torch.testing.assert_close(v_main @ v_main.T, v[:5].T @ v[:5], atol=1e-5, rtol=0)


def test_overlap_by_hand():
    x, y = torch.tensor([[2.0], [0.0]]), torch.tensor([[0.0], [3.0]])
    diagonal = torch.tensor([[1.0], [1.0]])
    assert overlap([x, y]) == 0
    assert overlap([x, 5 * x]) == 1
    torch.testing.assert_close(overlap([x, y, diagonal]), torch.tensor((0 + 2 * math.sqrt(0.5)) / 3))


@pytest.mark.parametrize("rank", [1, 3])
def test_orthogonality_of_six_equal_experts_is_known(weight, rank):
    linear = experts_of(weight, num_experts=6, rank=rank)
    loss = orthogonality_loss([linear, linear], [linear.main_bases()] * 2)
    # 21 pairs of 7 bases; the 6 with the main part are orthogonal, the 15 equal ones give ||I_r||; U and V sides.
    torch.testing.assert_close(loss, torch.tensor(2 * 15 / 21 * math.sqrt(rank)), atol=1e-4, rtol=0)
    loss.backward()
    assert linear.U_experts[0].grad.isfinite().all()
    assert linear.weight_main.grad is None


def test_orthogonality_falls_when_it_is_descended(weight):
    linear = experts_of(weight, num_experts=2, rank=2)
    with torch.no_grad():
        linear.U_experts[0].add_(0.1 * torch.randn(8, 2, generator=torch.Generator().manual_seed(3)))
    bases = [linear.main_bases()]
    optimizer = torch.optim.SGD([*linear.U_experts, *linear.V_experts], lr=0.1)
    losses = []
    for _ in range(10):
        loss = orthogonality_loss([linear], bases)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1e-3
