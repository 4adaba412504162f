"""Means by prompt and category, by hand; intervals are ``bootstrap_mean``'s."""

from __future__ import annotations

import pytest
import torch

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
