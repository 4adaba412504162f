"""An arena's findings as scores, beside those of the detectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from realgen.benchmark.arena.result import ArenaResult
from realgen.benchmark.results import REAL, ModelResults, Results, Score
from realgen.functional.bootstrap import Interval

WIN_RATE, CALLED_REAL, ELO = "arena_win_rate", "arena_called_real", "arena_elo"
"""Wins against the real images in percent, ties as half; images called real on their own in percent; Elo."""


def with_arena(results: Results, arena: ArenaResult) -> Results:
    """Results with an arena's findings, in full and as scores of each model.

    Args:
        results: Of the same models.
        arena: What was found.

    Returns:
        The results, with ``arena_win_rate``, ``arena_called_real`` and ``arena_elo`` where the arena has them.
    """
    scores, categories = _scores(arena)

    def scored(model: ModelResults) -> ModelResults:
        own = categories.get(model.name, {})
        names = dict.fromkeys([*model.categories, *own])
        by_category = {name: {**model.categories.get(name, {}), **own.get(name, {})} for name in names}
        return replace(model, scores={**model.scores, **scores.get(model.name, {})}, categories=by_category)

    real = None if results.real is None else scored(results.real)
    return replace(results, real=real, models=tuple(map(scored, results.models)), arena=arena.to_dict())


def _scores(
    arena: ArenaResult,
) -> tuple[dict[str, dict[str, Score]], dict[str, dict[str, dict[str, Score]]]]:
    """Scores by model, and by model and category."""
    scores: dict[str, dict[str, Score]] = {}
    categories: dict[str, dict[str, dict[str, Score]]] = {}

    def put(model: str, name: str, share: Interval | None, parts: Mapping[str, Interval]) -> None:
        if share is not None:
            scores.setdefault(model, {})[name] = _percent(share)
        for category, part in parts.items():
            categories.setdefault(model, {}).setdefault(category, {})[name] = _percent(part)

    for match in arena.matchups:
        if match.second == REAL:
            put(match.first, WIN_RATE, match.win_rate, match.categories)
    for single in arena.singles:
        put(single.model, CALLED_REAL, single.real_share, single.categories)
    for place in arena.ranking:
        elo = place.elo
        scores.setdefault(place.model, {})[ELO] = Score(elo.value, elo.low, elo.high, elo.number, higher_is_better=True)
    return scores, categories


def _percent(share: Interval) -> Score:
    low, high = (None if limit is None else 100 * limit for limit in (share.low, share.high))
    return Score(100 * share.value, low, high, share.number, higher_is_better=True)
