"""Score intervals against scipy, published numbers, the likelihood itself, and their own promise of coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats

from realgen.functional.proportion import share_limits, win_rate_limits

COUNTS = [(0, 1), (1, 1), (0, 6), (6, 6), (1, 7), (13, 80), (1041, 1041)]


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize(("yes", "number"), COUNTS)
def test_limits_of_a_share_are_scipys(yes: int, number: int, confidence: float) -> None:
    expected = stats.binomtest(yes, number).proportion_ci(confidence, method="wilson")
    assert share_limits(yes / number, number, confidence=confidence) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("yes", "number"), COUNTS)
def test_a_win_rate_without_ties_is_a_share(yes: int, number: int) -> None:
    expected = share_limits(yes / number, number)
    assert win_rate_limits(yes, 0, number - yes) == pytest.approx(expected, abs=1e-12)


def test_a_share_of_all_or_none_ends_there_exactly() -> None:
    for number in range(1, 200):
        assert share_limits(0.0, number)[0] == 0.0
        assert share_limits(1.0, number)[1] == 1.0
        assert win_rate_limits(number, 0, 0)[1] == 1.0


def test_the_published_limits_of_tango() -> None:
    """Fagerland, Lydersen and Laake (2014): 1 and 7 discordant of 21 pairs, difference -0.517 to -0.026."""
    low, high = win_rate_limits(1, 13, 7)
    assert (2 * low - 1, 2 * high - 1) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize("counts", [(3, 4, 5), (9, 1, 0), (0, 2, 8), (20, 59, 1)])
def test_at_the_limits_the_score_statistic_of_the_likelihood_is_z(counts: tuple[int, int, int]) -> None:
    """With P(lost) where scipy finds the likelihood's top, given the difference."""
    wins, _, losses = counts
    number, z = sum(counts), stats.norm.ppf(0.975)
    for limit, side in zip(win_rate_limits(*counts), (1, -1), strict=True):
        d = 2 * limit - 1

        def unlikely(q: float, d: float = d) -> float:
            shares = np.clip([q + d, 1 - 2 * q - d, q], 1e-300, 1)
            return -float(np.sum(counts * np.log(shares)))

        bounds = (max(0.0, -d), (1 - d) / 2)
        q = optimize.minimize_scalar(unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        score = (wins - losses - number * d) / math.sqrt(number * (2 * q + d - d * d))
        assert score == pytest.approx(side * z, abs=1e-4)


def test_all_ties_by_hand() -> None:
    """Nothing lost: q = 0 at the upper limit, and (n d)^2 = z^2 n (d - d^2) gives d = z^2 / (n + z^2)."""
    square = stats.norm.ppf(0.975) ** 2
    for number in (1, 6, 500):
        half = square / (number + square) / 2
        assert win_rate_limits(0, number, 0) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-12)


def test_limits_mirror_and_ties_make_them_narrower() -> None:
    low, high = win_rate_limits(7, 4, 2)
    assert win_rate_limits(2, 4, 7) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    wide = share_limits(9 / 13, 13)
    assert wide[0] < low < 9 / 13 < high < wide[1]


@pytest.mark.parametrize("chances", [(0.5, 0.0, 0.5), (0.9, 0.0, 0.1), (0.2, 0.6, 0.2), (0.85, 0.15, 0.0)])
def test_limits_cover_the_true_rate_as_often_as_they_say(chances: tuple[float, float, float]) -> None:
    """Counted out over everything that 20 pairs can give; an interval of zero width at the ends would miss often."""
    number, true, covered = 20, chances[0] + chances[1] / 2, 0.0
    for wins in range(number + 1):
        for ties in range(number + 1 - wins):
            losses = number - wins - ties
            chance = stats.multinomial.pmf([wins, ties, losses], number, chances)
            if chance > 1e-9:
                low, high = win_rate_limits(wins, ties, losses)
                covered += chance * (low <= true <= high)
    assert 0.92 < covered < 0.985


def test_mistakes() -> None:
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\], got 1\.5"):
        share_limits(1.5, 3)
    with pytest.raises(ValueError, match="number must be at least 1, got 0"):
        share_limits(0.5, 0)
    with pytest.raises(ValueError, match=r"confidence must lie between 0 and 1, both excluded, got 95"):
        share_limits(0.5, 3, confidence=95.0)
    with pytest.raises(ValueError, match="ties must be at least 0, got -1"):
        win_rate_limits(1, -1, 1)
    with pytest.raises(ValueError, match="at least one prompt, got none"):
        win_rate_limits(0, 0, 0)
