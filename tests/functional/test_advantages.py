"""Group-relative advantages, by hand."""

import pytest
import torch

from realgen.functional.advantages import group_advantages, weighted_advantages
from realgen.functional.rewards_std import rewards_std

NAN = torch.nan


def tensor(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_population_std_and_epsilon():
    # Mean 2.5; squared deviations 2.25 + 0.25 + 0.25 + 2.25 = 5, over 4 = 1.25.
    advantages = group_advantages(tensor([1.0, 2.0, 3.0, 4.0]), eps=0.5)
    expected = tensor([-1.5, -0.5, 0.5, 1.5]) / (1.25**0.5 + 0.5)
    torch.testing.assert_close(advantages, expected)


def test_mean_only():
    assert group_advantages(tensor([1.0, 2.0, 6.0]), std_normalize=False).tolist() == [[-2.0, -1.0, 3.0]]


def test_given_std_scales_every_group():
    advantages = group_advantages(tensor([1.0, 3.0], [10.0, 30.0]), std=torch.tensor(2.0, dtype=torch.float64), eps=0.0)
    assert advantages.tolist() == [[-0.5, 0.5], [-5.0, 5.0]]


def test_epsilon_is_added_to_a_given_std_too():
    advantages = group_advantages(tensor([1.0, 3.0]), std=torch.tensor(1.5, dtype=torch.float64), eps=0.5)
    assert advantages.tolist() == [[-0.5, 0.5]]
    assert group_advantages(tensor([1.0, 1.0]), std=torch.tensor(0.0)).tolist() == [[0.0, 0.0]]


def test_given_std_contradicts_mean_only():
    with pytest.raises(ValueError, match="std must be None when std_normalize is False, got 2"):
        group_advantages(tensor([1.0, 3.0]), std_normalize=False, std=torch.tensor(2.0))


@pytest.mark.parametrize("value", [0.1, 0.7, 1 / 3, 1e6 + 0.1])
@pytest.mark.parametrize("group", [2, 3, 7, 21])
@pytest.mark.parametrize("options", [{}, {"std_normalize": False}, {"std": torch.tensor(1e-6)}])
def test_equal_rewards_give_exact_zeros(value, group, options):
    advantages = group_advantages(torch.full((4, group), value), **options)
    assert torch.equal(advantages, torch.zeros(4, group))


def test_masked_samples_leave_the_statistics_and_get_zero():
    rewards = tensor([1.0, NAN, 3.0, 100.0])
    valid = torch.tensor([[True, False, True, False]])
    assert group_advantages(rewards, valid=valid, eps=0.0).tolist() == [[-1.0, 0.0, 1.0, 0.0]]


@pytest.mark.parametrize("valid", [[True, False, False], [False, False, False]])
@pytest.mark.parametrize("std_normalize", [True, False])
def test_fewer_than_two_valid_samples_teach_nothing(valid, std_normalize):
    rewards = tensor([5.0, NAN, NAN])
    advantages = group_advantages(rewards, valid=torch.tensor([valid]), std_normalize=std_normalize)
    assert advantages.tolist() == [[0.0, 0.0, 0.0]]


def test_groups_do_not_mix():
    rewards = tensor([1.0, 3.0], [7.0, 2.0])
    both = group_advantages(rewards)
    torch.testing.assert_close(both, torch.cat([group_advantages(row.unsqueeze(0)) for row in rewards]))


def test_each_reward_is_normalised_before_the_weights():
    parts = {"realism": tensor([0.0, 0.2]), "alignment": tensor([30.0, 10.0])}
    # Each part alone gives -1, +1 (times its order); the scales 0.1 and 10 do not matter.
    advantages = weighted_advantages(parts, {"realism": 3.0, "alignment": 1.0}, eps=0.0)
    torch.testing.assert_close(advantages, tensor([-0.5, 0.5]))
    undivided = weighted_advantages(parts, {"realism": 3.0, "alignment": 1.0}, divide_by_weights=False, eps=0.0)
    torch.testing.assert_close(undivided, tensor([-2.0, 2.0]))


def test_each_reward_has_its_own_given_std_and_all_share_the_mask():
    parts = {"a": tensor([0.0, 4.0, NAN]), "b": tensor([2.0, 0.0, 9.0])}
    advantages = weighted_advantages(
        parts,
        {"a": 1.0, "b": 1.0},
        valid=torch.tensor([[True, True, False]]),
        std={"a": torch.tensor(2.0), "b": torch.tensor(0.5)},
        divide_by_weights=False,
        eps=0.0,
    )
    assert advantages.tolist() == [[-1.0 + 2.0, 1.0 - 2.0, 0.0]]


def test_a_reward_without_weight_moves_nothing_even_where_it_failed():
    parts = {"a": tensor([0.0, 4.0]), "b": tensor([NAN, 9.0])}
    advantages = weighted_advantages(parts, {"a": 1.0, "b": 0.0}, eps=0.0)
    assert advantages.tolist() == [[-1.0, 1.0]]


@pytest.mark.parametrize(
    ("parts", "weights", "std", "message"),
    [
        (["a"], {"b": 1.0}, None, r"weights must name the rewards \['a'\].*got \['b'\]"),
        (["a"], {"a": 1.0}, {}, r"std must name the rewards \['a'\].*got \[\]"),
        ([], {}, None, r"weights must name the rewards \[\] \(at least one\)"),
        (["a", "b"], {"a": 1.0, "b": -1.0}, None, "weights must have a positive sum"),
    ],
)
def test_names_and_weights_must_fit(parts, weights, std, message):
    with pytest.raises(ValueError, match=message):
        weighted_advantages({name: tensor([0.0, 1.0]) for name in parts}, weights, std=std)


def test_std_over_all_prompts_mixes_the_spread_between_them():
    # 0, 2, 10, 12: mean 6, squared deviations 36 + 16 + 16 + 36 = 104, over 4 = 26.
    rewards = tensor([0.0, 2.0, NAN], [10.0, 12.0, NAN])
    torch.testing.assert_close(rewards_std(rewards, rewards.isfinite()).item(), 26**0.5)
    torch.testing.assert_close(rewards_std(rewards[:, :2]).item(), 26**0.5)


def test_std_of_nothing_is_zero():
    assert rewards_std(tensor([NAN, NAN]), torch.zeros(1, 2, dtype=torch.bool)) == 0
