"""From a judge's answers to win rates, shares and a ranking."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from realgen.benchmark.arena.questions import PairQuestions, Question
from realgen.benchmark.arena.result import Answer, ArenaResult, Matchup, PairRow, SingleScore
from realgen.benchmark.results import REAL, ModelResults, Results
from realgen.checks import check_at_least, check_confidence
from realgen.functional.arena import (
    bradley_terry_intervals,
    connected,
    elo,
    merge_orders,
    position_bias,
    win_matrices,
    win_rate,
)
from realgen.functional.estimate import Estimate, none_if_nan
from realgen.judges.base import Choice

AnswerOf = Callable[[Question], Answer | None]
"""Returns the answer to a question; None if there is none."""
WIN_RATE, CALLED_REAL, ELO = "arena_win_rate", "arena_called_real", "arena_elo"
"""Wins against the real images in percent, ties as half; images called real on their own in percent; Elo."""
_OUTCOMES: Mapping[Choice | None, float] = {"first": 1.0, "tie": 0.5, "second": 0.0, "real": 1.0, "fake": 0.0}


@dataclass(frozen=True)
class Resampling:
    """How intervals are made: those of strengths by drawing prompts anew, those of win rates and shares in closed form.

    Win rates have score intervals (``functional.proportion``): without ties, as of images called real, they are shares
    over independent prompts (Wilson 1927); with ties, which count as half, they are means of 0, 0.5 and 1 (Tango 1998).
    ValueError if a number is out of its range.
    """

    resamples: int = 2000
    """How often the prompts are drawn anew for the strengths' intervals, >= 1."""
    confidence: float = 0.95
    """Of all intervals, in (0, 1)."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(1, resamples=self.resamples)
        check_confidence(self.confidence)  # before a judge is paid


def pair_row(pair: PairQuestions, answer_of: AnswerOf) -> PairRow:
    """Gather what the judge said of a pair; no outcome where an order that was asked could not be judged."""
    question, swapped = pair
    other = question.second
    assert other is not None
    forward, backward = answer_of(question), None if swapped is None else answer_of(swapped)
    there, back = _outcome(forward), 1 - _outcome(backward)
    if swapped is not None:
        there = float(merge_orders(torch.tensor([there]), torch.tensor([back])))
    return PairRow(
        name=question.prompt.name,
        category=question.prompt.category,
        first=question.first.model,
        second=other.model,
        first_file=str(question.first.file),
        second_file=str(other.file),
        outcome=None if math.isnan(there) else there,
        forward=None if forward is None else forward.choice,
        forward_reason="" if forward is None else forward.reason,
        backward=None if backward is None else backward.choice,
        backward_reason="" if backward is None else backward.reason,
    )


def score_matchups(pairs: Sequence[PairRow], resampling: Resampling) -> tuple[Matchup, ...]:
    """Compute the win rates of all who met, in the order in which they first did."""
    met: dict[tuple[str, str], list[PairRow]] = {}
    for pair in pairs:
        met.setdefault((pair.first, pair.second), []).append(pair)
    return tuple(_matchup(own, resampling) for own in met.values())


def score_singles(
    questions: Sequence[Question], answer_of: AnswerOf, resampling: Resampling
) -> tuple[SingleScore, ...]:
    """Compute how often each model's images were called real; the real images last."""
    scores = []
    for model in sorted(dict.fromkeys(each.first.model for each in questions), key=lambda model: model == REAL):
        own = [question for question in questions if question.first.model == model]
        values = torch.tensor([_outcome(answer_of(question)) for question in own])
        share, categories = _rates(values, [question.prompt.category for question in own], resampling)
        scores.append(SingleScore(model, share, categories, int(values.isnan().sum())))
    return tuple(scores)


def bias(pairs: Sequence[PairRow]) -> tuple[float | None, float | None]:
    """Return the share of decided replies that chose the image shown first, and of pairs whose orders disagreed."""
    first_share, disagreement = position_bias(*_orders(pairs))
    return none_if_nan(first_share), none_if_nan(disagreement)


def rank(pairs: Sequence[PairRow], resampling: Resampling) -> dict[str, Estimate]:
    """Fit Bradley-Terry strengths of all contestants, on Elo's scale, strongest first; none where they do not exist.

    One virtual tie between those who met keeps the strength of a contestant that won or lost everything finite; its
    interval, and all of a single prompt, are not known (``bradley_terry_intervals``).
    """
    judged = [pair for pair in pairs if pair.outcome is not None]
    models = list(dict.fromkeys(model for pair in judged for model in (pair.first, pair.second)))
    prompts = list(dict.fromkeys(pair.name for pair in judged))
    if not judged:
        return {}
    places, rows = ({name: i for i, name in enumerate(names)} for names in (models, prompts))
    wins = win_matrices(
        torch.tensor([places[pair.first] for pair in judged]),
        torch.tensor([places[pair.second] for pair in judged]),
        torch.tensor([pair.outcome for pair in judged], dtype=torch.float64),
        torch.tensor([rows[pair.name] for pair in judged]),
        num_models=len(models),
        num_prompts=len(prompts),
    )
    met = (wins + wins.mT).sum(0) > 0
    if not bool(connected(met)):
        return {}
    found = bradley_terry_intervals(
        wins, resamples=resampling.resamples, confidence=resampling.confidence, seed=resampling.seed
    )
    played = ((wins + wins.mT).sum(-1) > 0).sum(0).tolist()  # prompts of each contestant
    value, low, high = (elo(part).tolist() for part in found)
    return {
        models[i]: Estimate(value[i], none_if_nan(low[i]), none_if_nan(high[i]), played[i], higher_is_better=True)
        for i in found.value.argsort(descending=True).tolist()
    }


def _matchup(pairs: Sequence[PairRow], resampling: Resampling) -> Matchup:
    outcomes = torch.tensor([math.nan if pair.outcome is None else pair.outcome for pair in pairs])
    rate, categories = _rates(outcomes, [pair.category for pair in pairs], resampling)
    forward, backward = _orders(pairs)
    return Matchup(
        first=pairs[0].first,
        second=pairs[0].second,
        win_rate=rate,
        categories=categories,
        wins=int((outcomes == 1).sum()),
        ties=int((outcomes == 0.5).sum()),
        losses=int((outcomes == 0).sum()),
        disagreements=int(((forward != backward) & ~forward.isnan() & ~backward.isnan()).sum()),
        unjudged=int(outcomes.isnan().sum()),
        first_share=bias(pairs)[0],
    )


def _rates(
    values: Tensor, categories: Sequence[str], resampling: Resampling
) -> tuple[Estimate | None, dict[str, Estimate]]:
    """Return the mean over all prompts, and by category; none of what was not judged."""

    def rate(part: Tensor) -> Estimate | None:
        if bool(part.isnan().all()):
            return None
        return win_rate(part, confidence=resampling.confidence)

    by_category = {
        category: rate(values[torch.tensor([name == category for name in categories])])
        for category in dict.fromkeys(categories)
        if category
    }
    return rate(values), {name: found for name, found in by_category.items() if found is not None}


def _orders(pairs: Sequence[PairRow]) -> tuple[Tensor, Tensor]:
    """Return outcomes for the first contestants in each order; NaN where there is none."""
    forward = torch.tensor([_OUTCOMES.get(pair.forward, math.nan) for pair in pairs])
    backward = torch.tensor([1 - _OUTCOMES.get(pair.backward, math.nan) for pair in pairs])
    return forward, backward


def _outcome(answer: Answer | None) -> float:
    """Return the outcome for the image shown first; NaN where nothing could be read."""
    return _OUTCOMES.get(None if answer is None else answer.choice, math.nan)


def with_arena(results: Results, arena: ArenaResult) -> Results:
    """Add an arena's findings to results, in full and as the scores above of each model that has them."""

    def scored(model: ModelResults) -> ModelResults:
        scores, categories = dict(model.scores), {name: dict(own) for name, own in model.categories.items()}
        shares = [
            (WIN_RATE, match.win_rate, match.categories)
            for match in arena.matchups
            if (match.first, match.second) == (model.name, REAL)
        ]
        shares += [(CALLED_REAL, one.real_share, one.categories) for one in arena.singles if one.model == model.name]
        for name, share, by_category in shares:
            if share is not None:
                scores[name] = _as_percent(share)
            for category, part in by_category.items():
                categories.setdefault(category, {})[name] = _as_percent(part)
        if model.name in arena.ranking:
            scores[ELO] = arena.ranking[model.name]
        return replace(model, scores=scores, categories=categories)

    return replace(results.map_models(scored), arena=arena)


def _as_percent(share: Estimate) -> Estimate:
    return replace(share.scaled(100.0), higher_is_better=True)
