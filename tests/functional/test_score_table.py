"""Means by prompt and category, by hand; intervals are ``bootstrap_mean``'s, of shares scipy's."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from realgen.functional.bootstrap import bootstrap_mean
from realgen.functional.score_table import score_table

NAN = float("nan")


def test_each_prompt_counts_once_and_each_category_alone():
    values = torch.tensor([1.0, 0.0, 4.0, 8.0])
    found = score_table(values, torch.tensor([7, 7, 3, 9]), torch.tensor([0, 0, 1, 1]), num_categories=2)
    torch.testing.assert_close(found.mean, torch.tensor([(0.5 + 4 + 8) / 3, 0.5, 6.0], dtype=torch.float64))
    assert found.number.tolist() == [3, 1, 2]


def test_intervals_are_those_of_the_prompts_means():
    values = torch.rand(12, generator=torch.Generator().manual_seed(1))
    found = score_table(values, torch.arange(12), torch.full((12,), -1), num_categories=0, resamples=100, seed=5)
    expected = bootstrap_mean(values.double(), resamples=100, seed=5)
    assert (found.low.item(), found.high.item()) == pytest.approx((expected.low, expected.high))
    assert found.low < found.mean < found.high


def test_order_of_the_rows_changes_no_bit():
    generator = torch.Generator().manual_seed(0)
    values, prompts = torch.rand(60, generator=generator), torch.arange(60) % 20
    categories = prompts % 3
    order = torch.randperm(60, generator=generator)
    first = score_table(values, prompts, categories, num_categories=3, resamples=50)
    second = score_table(values[order], prompts[order], categories[order], num_categories=3, resamples=50)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_what_could_not_be_judged_is_left_out_and_counted_out():
    values, prompts = torch.tensor([NAN, 2.0, NAN]), torch.tensor([0, 0, 1])
    found = score_table(values, prompts, torch.tensor([0, 0, 1]), num_categories=2)
    assert found.mean[:2].tolist() == [2.0, 2.0]
    assert found.mean[2].isnan()
    assert found.number.tolist() == [1, 1, 0]


def test_the_mean_over_one_prompt_has_no_interval():
    found = score_table(
        torch.tensor([0.2, 0.4, 0.9]), torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1]), num_categories=2
    )
    assert found.mean.tolist() == pytest.approx([0.6, 0.3, 0.9])
    assert found.low.isnan().tolist() == found.high.isnan().tolist() == [False, True, True]


def test_shares_have_the_limits_of_wilson():
    """Three categories: all of four, none of one, two of three."""
    values = torch.tensor([1.0, 1, 1, 1, 0, 1, 0, 1, NAN])
    categories = torch.tensor([0, 0, 0, 0, 1, 2, 2, 2, 2])
    found = score_table(values, torch.arange(9), categories, num_categories=3, shares=True, confidence=0.9)
    for row, (yes, number) in enumerate([(6, 8), (4, 4), (0, 1), (2, 3)]):
        limits = stats.binomtest(yes, number).proportion_ci(0.9, method="wilson")
        assert (found.mean[row].item(), found.number[row].item()) == (yes / number, number)
        assert (found.low[row].item(), found.high[row].item()) == pytest.approx((limits.low, limits.high), abs=1e-12)


def test_shares_of_several_images_a_prompt_are_means():
    """Images of a prompt are no independent witnesses; but where all prompts agree, Wilson's stands for n prompts."""
    values = torch.tensor([1.0, 0, 1, 1, 0, 0])
    prompts = torch.tensor([0, 0, 1, 1, 2, 2])
    found = score_table(values, prompts, torch.zeros(6).long(), num_categories=1, shares=True, seed=2)
    expected = bootstrap_mean(torch.tensor([0.5, 1.0, 0.0]), seed=2)
    assert (found.low[0].item(), found.high[0].item()) == (expected.low, expected.high)
    alike = score_table(torch.tensor([1.0, 0, 1, 0]), prompts[:4], prompts[:4], num_categories=2, shares=True)
    limits = stats.binomtest(1, 2).proportion_ci(method="wilson")
    assert (alike.low[0].item(), alike.high[0].item()) == pytest.approx((limits.low, limits.high), abs=1e-12)
    assert bool((alike.low < alike.high).all())


def test_a_share_is_of_yes_and_no():
    with pytest.raises(ValueError, match="values of shares must be 0, 1 or NaN"):
        score_table(torch.tensor([0.5]), torch.tensor([0]), torch.tensor([-1]), num_categories=0, shares=True)
