"""Bootstrap intervals against hand arithmetic, the binomial distribution, scipy, and their own promise of coverage."""

import math

import pytest
import torch
from scipy import stats

from realgen.functional import bootstrap
from realgen.functional.bootstrap import bootstrap_auroc, bootstrap_mean, percentile_limits, resampled_means
from realgen.functional.distribution_distance import auroc
from realgen.functional.estimate import Estimate


@pytest.fixture
def values():
    return torch.rand(60, generator=torch.Generator().manual_seed(3), dtype=torch.float64) ** 2


def test_two_prompts_give_the_binomial():
    means = resampled_means(torch.tensor([[0.0], [1.0]]), resamples=20000).flatten()
    shares = [float((means == level).double().mean()) for level in (0.0, 0.5, 1.0)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.015)  # 4 standard errors


def test_yes_or_no_has_the_limits_of_the_binomial_quantiles():
    number, share = 200, 0.3
    values = torch.tensor([1.0] * int(number * share) + [0.0] * int(number * (1 - share)))
    found = bootstrap_mean(values, resamples=20000, confidence=0.9)
    low, high = stats.binom.ppf([0.05, 0.95], number, share) / number
    assert found.value == pytest.approx(share)
    assert found.low == pytest.approx(low, abs=1.01 / number)
    assert found.high == pytest.approx(high, abs=1.01 / number)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_the_limits_are_scipys(values, confidence):
    found = bootstrap_mean(values, confidence=confidence, resamples=20000)
    arguments = {"method": "percentile", "n_resamples": 20000, "rng": 1}
    limits = stats.bootstrap((values.numpy(),), lambda x, axis: x.mean(axis), confidence_level=confidence, **arguments)
    standard_error = float(values.std(correction=0)) / math.sqrt(len(values))
    assert found.value == pytest.approx(float(values.mean()))
    assert found.low == pytest.approx(limits.confidence_interval.low, abs=0.06 * standard_error)
    assert found.high == pytest.approx(limits.confidence_interval.high, abs=0.06 * standard_error)


def test_intervals_cover_the_true_mean_as_often_as_they_say():
    generator = torch.Generator().manual_seed(0)
    samples = torch.rand(300, 50, generator=generator)
    found = [bootstrap_mean(sample, resamples=300, confidence=0.8, seed=i) for i, sample in enumerate(samples)]
    covered = sum(interval.low <= 0.5 <= interval.high for interval in found) / len(found)
    assert 0.72 <= covered <= 0.87  # 0.8 -+ 3 standard errors


def test_means_of_columns_are_of_the_same_prompts(values):
    columns = torch.stack([values, 2 * values + 1], dim=1)
    means = resampled_means(columns, resamples=50, seed=4)
    torch.testing.assert_close(means[:, 1], 2 * means[:, 0] + 1)
    assert means.shape == (50, 2)
    assert means.dtype == torch.float64


def test_draws_are_those_of_torch(values):
    draws = torch.randint(60, (7, 60), generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(resampled_means(values.unsqueeze(1), resamples=7, seed=5)[:, 0], values[draws].mean(1))


def test_chunks_do_not_change_the_draws(values, monkeypatch):
    whole = bootstrap_mean(values, resamples=200)
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 7 * 60)
    assert bootstrap_mean(values, resamples=200) == whole


def test_a_seed_is_an_answer(values):
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_the_callers_random_numbers_are_left_alone(values):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    bootstrap_mean(values)
    assert torch.equal(torch.rand(1), expected)


def test_one_prompt_has_no_limits():
    assert bootstrap_mean(torch.tensor([0.25])) == Estimate(0.25, None, None, count=1)


def test_half_precision_is_averaged_in_double():
    found = bootstrap_mean(torch.full((3000,), 0.1, dtype=torch.bfloat16))
    assert found.value == found.low == found.high == float(torch.tensor(0.1, dtype=torch.bfloat16))


def test_a_paired_difference_is_narrower_than_two_means(values):
    noise = 0.01 * torch.randn(60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    better = values + 0.05 + noise
    paired = bootstrap_mean(better - values)
    assert paired.value == pytest.approx(float((0.05 + noise).mean()))
    assert 0.04 < paired.low < paired.high < 0.06
    apart = bootstrap_mean(better)
    assert apart.high - apart.low > 10 * (paired.high - paired.low)


def test_the_difference_of_equals_covers_zero_as_often_as_it_says():
    samples = torch.randn(2, 300, 40, generator=torch.Generator().manual_seed(2))
    found = [bootstrap_mean(a - b, resamples=300, seed=i) for i, (a, b) in enumerate(zip(*samples, strict=True))]
    covered = sum(interval.low <= 0 <= interval.high for interval in found) / len(found)
    assert 0.90 <= covered <= 0.98  # 0.95, a little less for 40 prompts, -+ 3 standard errors


def test_limits_are_percentiles():
    low, high = percentile_limits(torch.arange(101.0).unsqueeze(1) * torch.tensor([1.0, 10.0]), confidence=0.9)
    assert low.tolist() == pytest.approx([5, 50])
    assert high.tolist() == pytest.approx([95, 950])


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_is_a_share(confidence):
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        bootstrap_mean(torch.ones(3), confidence=confidence)


def test_mistakes():
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        bootstrap_mean(torch.ones(3), resamples=0)
    with pytest.raises(ValueError, match="at least one prompt, got none"):
        bootstrap_mean(torch.ones(0))
    for value in (math.inf, math.nan):
        with pytest.raises(ValueError, match="values must be finite, got 1 that are not"):
            bootstrap_mean(torch.tensor([1.0, value]))


@pytest.mark.parametrize("paired", [False, True])
def test_an_auroc_has_the_limits_of_drawing_images_again(paired):
    """The naive way: draw images with replacement, those of a pair together, and compute the AUROC of each draw."""
    generator = torch.Generator().manual_seed(4)
    real = torch.randn(60, generator=generator).double()
    fake = (
        real + 0.3 + 0.3 * torch.randn(60, generator=generator) if paired else torch.randn(45, generator=generator) + 1
    )
    found = bootstrap_auroc(fake, real, paired=paired)
    assert found.value == pytest.approx(float(auroc(fake.double(), real)))
    draws = [
        [torch.randint(len(part), (len(part),), generator=generator) for part in (fake, real)] for _ in range(2000)
    ]
    naive = torch.stack([auroc(fake[i].double(), real[i if paired else j]) for i, j in draws])
    low, high = naive.quantile(0.025), naive.quantile(0.975)
    assert (found.low, found.high) == pytest.approx((float(low), float(high)), abs=0.012)


def test_an_auroc_of_ties_and_one_that_is_certain():
    ones = torch.ones(5)
    assert bootstrap_auroc(ones, ones) == Estimate(0.5, 0.5, 0.5, 10)
    assert bootstrap_auroc(ones, 0 * ones[:2]) == Estimate(1.0, 1.0, 1.0, 7)
    with pytest.raises(ValueError, match="values must be finite"):
        bootstrap_auroc(ones, torch.empty(0))
