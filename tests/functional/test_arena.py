"""Win rates by hand, and Bradley-Terry against closed forms, scipy and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from sklearn.linear_model import LogisticRegression

from realgen.functional.arena import (
    bradley_terry,
    bradley_terry_intervals,
    elo,
    merge_orders,
    position_bias,
    win_matrices,
    win_rate,
)
from realgen.functional.bootstrap import bootstrap_mean

NAN = math.nan


@pytest.fixture
def wins():
    counts = torch.randint(1, 40, (6, 6), generator=torch.Generator().manual_seed(2)).double()
    return counts * (1 - torch.eye(6)) + torch.tensor([30.0, 0, 0, 0, 0, 0]).unsqueeze(1) * (1 - torch.eye(6))


def centred(theta):
    return theta - theta.mean()


def test_win_rate_counts_a_tie_as_half_and_leaves_out_what_was_not_judged():
    found = win_rate(torch.tensor([1.0, 1.0, 0.5, 0.0, NAN]))
    assert found.value == 2.5 / 4
    assert found.count == 4
    assert 0 <= found.low < found.value < found.high <= 1


def test_win_rate_refuses_other_numbers():
    with pytest.raises(ValueError, match=r"outcomes must be 0, 0\.5, 1 or NaN, got 0\.75"):
        win_rate(torch.tensor([0.0, NAN, 0.75]))
    with pytest.raises(ValueError, match="at least one prompt that was judged, got 1 that were not"):
        win_rate(torch.tensor([NAN]))


@pytest.mark.parametrize(("outcomes", "wins"), [([1.0], 1), ([0.0] * 6, 0), ([1.0] * 6 + [NAN], 6), ([1.0, 0.0], 1)])
def test_a_win_rate_without_ties_has_the_limits_of_wilson(outcomes, wins):
    number = sum(not math.isnan(outcome) for outcome in outcomes)
    limits = stats.binomtest(wins, number).proportion_ci(0.9, method="wilson")
    found = win_rate(torch.tensor(outcomes), confidence=0.9)
    assert (found.low, found.high) == pytest.approx((limits.low, limits.high), abs=1e-9)


@pytest.mark.parametrize(
    ("forward", "backward", "merged"),
    [
        (1, 1, 1),
        (0, 0, 0),
        (0.5, 0.5, 0.5),
        (1, 0, 0.5),
        (0, 1, 0.5),
        (1, 0.5, 0.5),
        (0.5, 0, 0.5),
        (NAN, 1, NAN),
        (0, NAN, NAN),
        (NAN, NAN, NAN),
    ],
)
def test_orders_must_agree(forward, backward, merged):
    found = merge_orders(torch.tensor([float(forward)]), torch.tensor([float(backward)]))
    assert found.tolist() == pytest.approx([merged], nan_ok=True)


def test_a_judge_that_always_takes_the_first_is_all_bias():
    assert position_bias(torch.ones(5), torch.zeros(5)) == (1.0, 1.0)
    assert merge_orders(torch.ones(5), torch.zeros(5)).tolist() == [0.5] * 5


def test_a_judge_that_sees_only_the_images_has_none():
    truth = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0])
    assert position_bias(truth, truth) == (0.5, 0.0)


def test_bias_by_hand_with_ties_and_gaps():
    forward = torch.tensor([1.0, 0.5, NAN, 0.0, 1.0])
    backward = torch.tensor([1.0, 0.0, 1.0, NAN, 0.0])
    # Decided replies: forward 1, 0, 1; backward, as seen from the first position, 0, 1, 0, 1. Three pairs of both.
    assert position_bias(forward, backward) == pytest.approx((4 / 7, 2 / 3))


def test_without_a_swap_there_is_no_disagreement():
    first_share, disagreement = position_bias(torch.tensor([1.0, 0.0]), torch.full((2,), NAN))
    assert first_share == 0.5
    assert math.isnan(disagreement)


def test_win_matrices_by_hand():
    first, second = torch.tensor([0, 0, 1, 0]), torch.tensor([1, 2, 2, 1])
    found = win_matrices(
        first, second, torch.tensor([1.0, 0.5, 0.0, NAN]), torch.tensor([0, 0, 1, 1]), num_models=3, num_prompts=2
    )
    assert found[0].tolist() == [[0, 1, 0.5], [0, 0, 0], [0.5, 0, 0]]
    assert found[1].tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(("won", "lost"), [(3.0, 1.0), (0.5, 7.5), (1000.0, 1.0), (1e6, 1.0), (1e18, 1e-18)])
def test_two_models_have_the_log_odds(won, lost):
    theta = bradley_terry(torch.tensor([[0.0, won], [lost, 0.0]], dtype=torch.float64))
    assert float(theta[0] - theta[1]) == pytest.approx(math.log(won / lost), abs=1e-6)
    assert float(theta.sum()) == pytest.approx(0, abs=1e-12)


def test_a_star_of_pairs_has_the_log_odds_of_each():
    wins = torch.zeros(4, 4, dtype=torch.float64)
    for i, won in enumerate((2.0, 5.0, 0.25), start=1):
        wins[0, i], wins[i, 0] = won, 1.0
    theta = bradley_terry(wins)
    assert (theta[0] - theta[1:]).tolist() == pytest.approx([math.log(2), math.log(5), math.log(0.25)], abs=1e-8)


def test_strengths_that_generated_the_wins_are_found():
    truth = centred(torch.tensor([2.0, -1.0, 0.5, 0.0, -3.0], dtype=torch.float64))
    wins = 7.0 * torch.sigmoid(truth.unsqueeze(1) - truth)
    torch.testing.assert_close(bradley_terry(wins), truth, atol=1e-8, rtol=0)


def test_the_fit_is_scipys(wins):
    def loss(theta):
        return float((wins * torch.nn.functional.softplus(torch.from_numpy(theta[None, :] - theta[:, None]))).sum())

    found = optimize.minimize(loss, np.zeros(6), method="BFGS", options={"gtol": 1e-8}).x
    torch.testing.assert_close(bradley_terry(wins), centred(torch.from_numpy(found)), atol=1e-5, rtol=0)


def test_the_fit_is_the_logistic_regression_of_scikit_learn(wins):
    rows, labels, weights = [], [], []
    for i in range(6):
        for j in range(6):
            if i != j:
                rows += [np.eye(6)[i] - np.eye(6)[j], np.eye(6)[j] - np.eye(6)[i]]
                labels += [1, 0]
                weights += [float(wins[i, j])] * 2
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=2000)
    model.fit(np.array(rows), np.array(labels), sample_weight=np.array(weights))
    torch.testing.assert_close(bradley_terry(wins), centred(torch.from_numpy(model.coef_[0])), atol=1e-4, rtol=0)


def test_a_batch_is_fitted_one_by_one(wins):
    batch = torch.stack([wins, wins.T, 3 * wins + 1]).view(3, 1, 6, 6)
    found = bradley_terry(batch)
    assert found.shape == (3, 1, 6)
    for i in range(3):
        torch.testing.assert_close(found[i, 0], bradley_terry(batch[i, 0]), atol=1e-8, rtol=0)
    torch.testing.assert_close(found[0], -found[1], atol=1e-8, rtol=0)


def test_the_diagonal_counts_nothing(wins):
    torch.testing.assert_close(bradley_terry(wins + 50 * torch.eye(6)), bradley_terry(wins))


def test_wins_on_which_plain_newton_runs_away():
    """The strengths are those at which everybody is expected to win as often as they did."""
    rows = [[0, 2945, 0, 0, 28, 20175], [0, 0, 1.2, 0, 0, 0], [0, 15.5, 0, 0, 76, 0]]
    rows += [[0, 0, 25503, 0, 0, 0], [63579, 0, 0, 0, 0, 0], [3.9, 0, 17878, 1868.5, 391, 0]]
    wins = torch.tensor(rows, dtype=torch.float64)
    theta = bradley_terry(wins)
    expected = (wins + wins.T) * torch.sigmoid(theta.unsqueeze(1) - theta)
    torch.testing.assert_close(expected.sum(1), wins.sum(1), rtol=0, atol=1e-4)


def test_wins_beyond_arithmetic_are_refused():
    with pytest.raises(ValueError, match="the wins are too one-sided"):
        bradley_terry(torch.tensor([[0.0, 1e300], [1e-300, 0.0]], dtype=torch.float64))


def test_one_model_stands_at_zero():
    assert bradley_terry(torch.zeros(1, 1)).tolist() == [0.0]


@pytest.mark.parametrize(
    "wins",
    [[[0, 3, 2], [0, 0, 1], [0, 1, 0]], [[0, 3, 0], [1, 0, 0], [0, 0, 0]], [[0, 0], [0, 0]]],
    ids=["never lost", "never compared", "nobody played"],
)
def test_strengths_that_do_not_exist_are_refused(wins):
    with pytest.raises(ValueError, match="the strengths do not exist"):
        bradley_terry(torch.tensor(wins, dtype=torch.float64))


def test_virtual_ties_are_ties_between_those_who_met():
    wins = torch.tensor([[0.0, 3.0, 0.0], [0.0, 0.0, 2.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    met = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    found = bradley_terry_intervals(wins.unsqueeze(0), virtual_ties=1.0, resamples=3)
    torch.testing.assert_close(found.value, bradley_terry(wins + met / 2))
    assert float(found.value[0] - found.value[1]) == pytest.approx(math.log(3.5 / 0.5))
    assert bool(found.low.isnan().all())  # of one prompt there is one resample
    assert bool(found.high.isnan().all())


def test_who_won_all_or_lost_all_has_no_limits():
    """0 beats all, 1 and 2 beat each other, 3 loses to all: drawing prompts again tells of 1 and 2 alone."""
    wins = torch.zeros(8, 4, 4, dtype=torch.float64)
    wins[:, 0, 1:] = wins[:, 1:3, 3] = 1
    wins[:5, 1, 2] = wins[5:, 2, 1] = 1
    found = bradley_terry_intervals(wins, resamples=50)
    assert found.low.isnan().tolist() == found.high.isnan().tolist() == [True, False, False, True]
    assert bool((found.low < found.value)[1:3].all())
    assert bool((found.value < found.high)[1:3].all())


def test_who_tied_all_has_no_limits():
    """As with a judge that always takes the first image: drawing ties again gives ties, which is no certainty."""
    wins = torch.zeros(8, 3, 3, dtype=torch.float64)
    wins[:, 0, 1] = wins[:, 1, 0] = 0.5
    assert bool(bradley_terry_intervals(wins[:, :2, :2], resamples=50).low.isnan().all())
    wins[:5, 1, 2] = wins[5:, 2, 1] = 1
    assert not bool(bradley_terry_intervals(wins, resamples=50).low.isnan().any())


def test_those_who_never_met_are_not_ranked():
    wins = torch.tensor([[0.0, 3.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match="the strengths do not exist"):
        bradley_terry_intervals(wins.unsqueeze(0))


def test_mistakes():
    with pytest.raises(ValueError, match=r"wins must have shape \[..., models, models\], got \[0, 0\]"):
        bradley_terry(torch.zeros(0, 0))
    with pytest.raises(ValueError, match="wins must be zero or more, got -1"):
        bradley_terry(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
    with pytest.raises(ValueError, match="virtual_ties must be zero or more"):
        bradley_terry_intervals(torch.ones(1, 2, 2), virtual_ties=-1.0)


def test_intervals_of_two_models_are_those_of_the_log_odds():
    won = (torch.rand(400, generator=torch.Generator().manual_seed(1)) < 0.7).double()
    wins = torch.zeros(400, 2, 2, dtype=torch.float64)
    wins[:, 0, 1], wins[:, 1, 0] = won, 1 - won
    found = bradley_terry_intervals(wins, virtual_ties=0.0, resamples=2000, seed=3)
    rate = bootstrap_mean(won, resamples=2000, seed=3)
    for limit, share in ((found.low, rate.low), (found.value, rate.value), (found.high, rate.high)):
        assert float(limit[0]) == pytest.approx(math.log(share / (1 - share)) / 2, abs=2e-3)
    assert float(found.low[1]) == pytest.approx(-float(found.high[0]), abs=1e-6)


def test_intervals_cover_the_true_strengths():
    generator = torch.Generator().manual_seed(5)
    truth = torch.tensor([0.8, 0.0, -0.8], dtype=torch.float64)
    pairs = torch.tensor([[0, 1], [0, 2], [1, 2]])
    covered = torch.zeros(3)
    for repeat in range(40):
        chance = torch.sigmoid(truth[pairs[:, 0]] - truth[pairs[:, 1]])
        outcomes = (torch.rand(80, 3, generator=generator) < chance).double()
        prompt = torch.arange(80).repeat_interleave(3)
        wins = win_matrices(
            pairs[:, 0].repeat(80), pairs[:, 1].repeat(80), outcomes.flatten(), prompt, num_models=3, num_prompts=80
        )
        found = bradley_terry_intervals(wins, resamples=150, confidence=0.9, seed=repeat)
        covered += (found.low <= truth) & (truth <= found.high)
    assert bool(((covered >= 30) & (covered < 40)).all())  # 36 less 3 standard errors


def test_elo_is_ten_to_one_in_400_points():
    assert elo(torch.tensor([0.0, math.log(10), -math.log(10)]), mean=0.0).tolist() == pytest.approx([0, 400, -400])
