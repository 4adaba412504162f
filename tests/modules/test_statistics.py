from __future__ import annotations

import math

import pytest
import torch

from realgen.modules.statistics import (
    advantage_statistics,
    check_any_scored,
    combine_microbatches,
    combine_ranks,
    gather_rewards,
    reward_statistics,
)
from realgen.types import RewardOutput

NAN = math.nan
RED = torch.tensor([[1.0, 3.0], [5.0, NAN]])
GREEN = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
REWARDS = RewardOutput(total=RED + GREEN, components={"red": RED, "green": GREEN}, weights={"red": 1.0, "green": 1.0})


def test_reward_statistics_by_hand() -> None:
    values = {name: float(value) for name, value in reward_statistics(REWARDS).items()}
    assert values == {
        "reward": pytest.approx((1 + 3 + 6) / 3),
        "reward_std": pytest.approx((1.0 + 0.0) / 2),  # groups (1, 3) and (6)
        "reward/red": 3.0,
        "failed/red": 1.0,
        "reward/green": 0.5,
        "failed/green": 0.0,
    }


def test_a_group_without_scored_samples_counts_in_no_mean() -> None:
    part = torch.tensor([[1.0, 3.0], [NAN, NAN]])
    values = reward_statistics(RewardOutput(total=part, components={"red": part}, weights={"red": 1.0}))
    assert (float(values["reward"]), float(values["reward_std"]), float(values["failed/red"])) == (2, 1, 2)


def test_all_failed_is_an_error_that_counts() -> None:
    check_any_scored(REWARDS, 0)
    part = torch.full((1, 2), NAN)
    rewards = RewardOutput(total=part, components={"red": part, "green": GREEN[:1]}, weights={"red": 1.0, "green": 1.0})
    with pytest.raises(RuntimeError, match=r"not one of the 2 samples of iteration 7 .* red: 2, green: 0"):
        check_any_scored(rewards, 7)


def test_gather_rewards_keeps_names_and_numbers_on_one_rank() -> None:
    gathered = gather_rewards(REWARDS)
    torch.testing.assert_close(gathered.total, REWARDS.total, equal_nan=True)
    assert list(gathered.components) == ["red", "green"]
    assert torch.equal(gathered.components["green"], GREEN)
    torch.testing.assert_close(gathered.components["red"], RED, equal_nan=True)


def test_advantage_statistics_by_hand() -> None:
    values = advantage_statistics(torch.tensor([[3.0, -3.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, -1.0], [0.0, 0.0, 0.0]]))
    assert float(values["advantage/std"]) == pytest.approx(math.sqrt(20 / 12))
    assert float(values["zero_variance_groups"]) == 0.5
    assert float(values["advantage/absmax"]) == 3.0


def test_combine_microbatches_weighs_means_and_takes_the_largest_maximum() -> None:
    first = {"kl": torch.tensor(2.0), "ratio_max_deviation": torch.tensor(0.1)}
    second = {"kl": torch.tensor(6.0), "ratio_max_deviation": torch.tensor(0.3)}
    maxima = {"ratio_max_deviation"}
    joined = combine_microbatches([first, second], [0.6, 0.2], maxima=maxima)
    assert float(joined["kl"]) == pytest.approx((0.6 * 2 + 0.2 * 6) / 0.8)
    assert float(joined["ratio_max_deviation"]) == pytest.approx(0.3)
    assert {name: float(value) for name, value in combine_ranks(joined, maxima=maxima).items()} == pytest.approx(
        {"kl": 3.0, "ratio_max_deviation": 0.3}
    )
