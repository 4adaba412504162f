"""Who wins: win rates with ties as half, agreement of the two orders, and strengths by Bradley and Terry.

The outcome of a comparison is a number seen from its first contestant: 1 = won, 0.5 = tie, 0 = lost, NaN = not judged.
M models, P prompts, R resamples.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from realgen.functional.bootstrap import percentile_limits, resampled_means
from realgen.functional.estimate import Estimate
from realgen.functional.proportion import win_rate_limits

_STEPS = 200  # Newton steps after which the fit gives up; it takes about ten
_SAME = 1e-6  # log-strengths no further apart are the same: the fit stops at a change of 1e-8


class Strengths(NamedTuple):
    """Bradley-Terry strengths of models, with their intervals."""

    value: Float[Tensor, " models"]
    """[M] log-strength; sums to zero. A model beats another with the logistic function of their difference."""
    low: Float[Tensor, " models"]
    """[M] lower limit; NaN where nothing can be said."""
    high: Float[Tensor, " models"]
    """[M] upper limit; NaN where nothing can be said."""


def win_rate(outcomes: Float[Tensor, " prompts"], *, confidence: float = 0.95) -> Estimate:
    """Compute the share of comparisons won, a tie counting as half a win, with its score interval over prompts.

    Without ties that is Wilson's interval of a share, with ties Tango's (``functional.proportion``). Both have a width
    of their own where all prompts agree and where there is one, where a bootstrap has none. Outcomes [P] are 0, 0.5 or
    1; NaN, left out, where they could not be judged.

    Raises:
        ValueError: If an outcome is none of these, or none was judged.
    """
    losses, ties, wins = (int((outcomes == level).sum()) for level in (0.0, 0.5, 1.0))
    number, dropped = losses + ties + wins, int(outcomes.isnan().sum())
    if number + dropped < len(outcomes):
        other = next(value for value in outcomes.tolist() if value not in (0, 0.5, 1) and not math.isnan(value))
        raise ValueError(f"outcomes must be 0, 0.5, 1 or NaN, got {other:.4g}.")
    if number == 0:
        raise ValueError(f"outcomes must hold at least one prompt that was judged, got {dropped} that were not.")
    low, high = win_rate_limits(wins, ties, losses, confidence=confidence)
    return Estimate((wins + ties / 2) / number, low, high, number)


def merge_orders(forward: Float[Tensor, " pairs"], backward: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
    """Merge outcomes [N] for the first contestant, shown first and second: what both agree on, or a tie; NaN stays."""
    judged = torch.where(forward == backward, forward, 0.5)
    return torch.where(forward.isnan() | backward.isnan(), torch.nan, judged)


def position_bias(forward: Float[Tensor, " pairs"], backward: Float[Tensor, " pairs"]) -> tuple[float, float]:
    """Compute how often the image shown first was chosen, and how often the order changed the choice.

    Both arguments [N] are outcomes for the first contestant, shown first and second. Returns the share of the decided
    replies, of both orders together, that chose the first image: 0.5 = no bias, NaN = none decided; and the share of
    the pairs judged in both orders whose choices differ: NaN = none. Of a protocol that never swaps only the first
    exists, and there bias and strength of the contestants look the same.
    """
    shown_first = torch.cat([forward, 1 - backward])
    decided = shown_first[(shown_first == 0) | (shown_first == 1)]
    both = ~(forward.isnan() | backward.isnan())
    return float(decided.double().mean()), float((forward != backward)[both].double().mean())


def win_matrices(
    first: Int[Tensor, " pairs"],
    second: Int[Tensor, " pairs"],
    outcomes: Float[Tensor, " pairs"],
    prompts: Int[Tensor, " pairs"],
    *,
    num_models: int,
    num_prompts: int,
) -> Float[Tensor, "prompts models models"]:
    """Count the wins of each model over each other one, prompt by prompt; a tie is half a win for both, NaN is none.

    Comparisons [N] name their first and second contestant, 0 to M - 1, the outcome for the first, and the prompt, 0 to
    P - 1. Returns [P, M, M] float64; entry (i, j) = wins of i over j.
    """
    judged = ~outcomes.isnan()
    i, j, p, won = first[judged], second[judged], prompts[judged], outcomes[judged].double()
    wins = torch.zeros(num_prompts, num_models, num_models, dtype=torch.float64)
    wins.index_put_((p, i, j), won, accumulate=True)
    wins.index_put_((p, j, i), 1 - won, accumulate=True)
    return wins


def bradley_terry(wins: Float[Tensor, "*batch models models"]) -> Float[Tensor, "*batch models"]:
    """Fit maximum-likelihood strengths of paired comparisons (Bradley and Terry 1952), ties counted as half wins.

        P(i beats j) = 1 / (1 + exp(theta_j - theta_i)),   theta = argmax sum_ij wins_ij log P(i beats j)

    Newton's method with the step shortened to log(1 + c) / c of itself, where c is the largest change of a difference:
    the log-likelihood's third derivative is at most c times its second, so no such step overshoots (Sun and Tran-Dinh
    2019, equation 12), and the last ones are full. It is not Elo's running update, and does not depend on any order.

    Of [..., M, M] wins of row over column, >= 0, whose diagonal counts nothing; [..., M] float64 log-strengths that sum
    to zero.

    Raises:
        ValueError: If the matrices are not square, a number of wins is negative, or the strengths do not exist: some
            models have lost nothing to all others, or were not compared with them (Ford 1957).
    """
    models = wins.shape[-1]
    if wins.shape[-2] != models or models == 0:
        raise ValueError(f"wins must have shape [..., models, models], got {list(wins.shape)}.")
    if not bool((wins >= 0).all()):
        raise ValueError(f"wins must be zero or more, got {wins.min():.4g}.")
    won = wins.double() * (1 - torch.eye(models, dtype=torch.float64))
    if not bool(connected(won > 0).all()):
        raise ValueError(
            "the strengths do not exist: some models have lost nothing to the others, or were never compared with "
            "them; judge more pairs."
        )
    games = won + won.mT
    theta = torch.zeros(won.shape[:-1], dtype=torch.float64)
    if models == 1:
        return theta
    for _ in range(_STEPS):
        beats = torch.sigmoid(theta.unsqueeze(-1) - theta.unsqueeze(-2))  # [..., M, M]
        slope = (won * beats.mT - won.mT * beats).sum(-1)  # no difference of large numbers, however long the odds
        weights = games * beats * beats.mT
        # Only differences count, so the curvature is blind to a common shift; the constant makes it invertible.
        curvature = torch.diag_embed(weights.sum(-1)) - weights + weights.mean((-2, -1), keepdim=True)
        step = torch.linalg.solve_ex(curvature, slope).result  # NaN, which never stops, where rounding has eaten it
        change = step.amax(-1, keepdim=True) - step.amin(-1, keepdim=True)
        theta = theta + step * torch.log1p(change) / change.clamp_min(1e-12)
        if bool((change <= 1e-8).all()):
            return theta - theta.mean(-1, keepdim=True)
    raise ValueError(f"the strengths were not found in {_STEPS} steps; the wins are too one-sided.")


def bradley_terry_intervals(
    wins: Float[Tensor, "prompts models models"],
    *,
    virtual_ties: float = 1.0,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Strengths:
    """Fit strengths with percentile bootstrap intervals, by fitting them anew to prompts drawn with replacement.

    The wins [P, M, M], prompt by prompt, are as ``win_matrices`` gives them. Each fit adds ``virtual_ties``, >= 0,
    between every two models that were compared at all: above 0 a model that wins everything still has a strength, and
    all strengths are pulled together a little.

    A model that beat everyone it met, or lost to everyone, has a strength because of the virtual ties only: drawing
    prompts again gives the same record, and could not tell how far above or below the others it may be. Its limits are
    NaN; so are all of one prompt. More exactly, only a model that a circle of wins or ties joins to another has limits
    (Ford 1957). Nor has one whose strength is the same in all resamples, as where all pairs are ties: that is no
    certainty, for as little as ten wins of ten are one.

    Raises:
        ValueError: As ``bradley_terry`` and ``bootstrap_mean`` do.
    """
    if virtual_ties < 0:
        raise ValueError(f"virtual_ties must be zero or more, got {virtual_ties}.")
    total = wins.double().sum(0)
    ties = virtual_ties / 2 * (total + total.mT > 0)
    value = bradley_terry(total + ties)
    drawn = resampled_means(wins.flatten(1), resamples=resamples, seed=seed) * len(wins)
    limits = percentile_limits(bradley_terry(drawn.view(-1, *total.shape) + ties), confidence)
    reach = _reach(total > 0)
    known = ((reach & reach.mT).sum(-1) > 1) & (len(wins) > 1) & (limits[1] - limits[0] > _SAME)
    low, high = (limit.where(known, torch.nan) for limit in limits)
    return Strengths(value, low, high)


def elo(strengths: Float[Tensor, " *models"], *, mean: float = 1000.0) -> Float[Tensor, " *models"]:
    """Convert log-strengths to Elo's scale, where 0 lands at ``mean`` and 400 points more mean odds of ten to one."""
    return mean + 400.0 / math.log(10.0) * strengths


def connected(beat: Bool[Tensor, "*batch models models"]) -> Bool[Tensor, " *batch"]:
    """Return whether everyone has beaten everyone, directly or through others (Ford's condition)."""
    return _reach(beat).all(-1).all(-1)


def _reach(beat: Bool[Tensor, "*batch models models"]) -> Bool[Tensor, "*batch models models"]:
    """Return whom each has beaten, directly or through others; itself, too."""
    reach = (beat | torch.eye(beat.shape[-1], dtype=torch.bool)).double()
    for _ in range(max(1, math.ceil(math.log2(beat.shape[-1])))):
        reach = (reach @ reach > 0).double()
    return reach > 0
