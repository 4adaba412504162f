"""How sure a share is: score intervals, which have a width even where all prompts agree and where there are few.

The bootstrap of ``bootstrap.py`` has none there: drawing ten wins of ten again gives ten wins each time.
"""

import math
from statistics import NormalDist

from realgen.checks import check_at_least, check_confidence

_HALVINGS = 60  # of the bracket around a limit; it is then narrower than the rounding of a float64


def share_limits(share: float, number: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Compute limits of a share of independent prompts that are yes or no (Wilson 1927, the score interval).

        (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    These are the true shares that a test of p over n prompts would not refuse. Of numbers in [0, 1] that are no plain
    yes or no, the same limits are safe, only too wide: their variance is at most p (1 - p) (Bhatia and Davis 2000).

    Raises:
        ValueError: If ``share`` is not in [0, 1], ``number`` below 1, or ``confidence`` not between 0 and 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], got {share}.")
    check_at_least(1, number=number)
    square = _quantile(confidence) ** 2 / number  # z^2 / n
    centre = share + square / 2
    half = math.sqrt(square * (share * (1 - share) + square / 4))
    low, high = ((centre + side * half) / (1 + square) for side in (-1, 1))
    return 0.0 if share == 0 else low, 1.0 if share == 1 else high  # exactly, whatever rounding says


def win_rate_limits(wins: int, ties: int, losses: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Compute limits of a win rate where a tie is half a win (Tango 1998, the score interval of a paired difference).

    The rate is (1 + d) / 2 with d = P(won) - P(lost). The limits are the d at which the score statistic is -+z:

        (wins - losses - n d) / sqrt(n (2 q + d - d^2)) = -+z

    where q is the likeliest P(lost) given d, the larger root of

        2 n q^2 + ((2 n - wins + losses) d - wins - losses) q - losses d (1 - d) = 0.

    Without ties they are ``share_limits``' to the last digit; with them they are narrower, for a tie varies less.

    Raises:
        ValueError: If a number is negative, all are zero, or ``confidence`` is not between 0 and 1.
    """
    counts = {"wins": wins, "ties": ties, "losses": losses}
    check_at_least(0, **counts)
    if sum(counts.values()) == 0:
        raise ValueError("wins, ties and losses must hold at least one prompt, got none.")
    z = _quantile(confidence)
    return 1 - _upper_rate(losses, ties, wins, z), _upper_rate(wins, ties, losses, z)


def _upper_rate(wins: int, ties: int, losses: int, z: float) -> float:
    """Return the upper limit, by halving [rate, 1]."""
    number = wins + ties + losses
    inside, outside = (wins - losses) / number, 1.0
    for _ in range(_HALVINGS):
        d = (inside + outside) / 2
        b = (2 * number - wins + losses) * d - wins - losses
        q = (math.sqrt(max(0.0, b * b + 8 * number * losses * d * (1 - d))) - b) / (4 * number)
        if (wins - losses - number * d) ** 2 <= z * z * number * (2 * q + d * (1 - d)):
            inside = d
        else:
            outside = d
    return (1 + inside) / 2


def _quantile(confidence: float) -> float:
    """Return z, beyond which a standard normal number lies with half of what the confidence leaves."""
    check_confidence(confidence)
    return NormalDist().inv_cdf((1 + confidence) / 2)
