"""An arena's findings as scores, beside those of the detectors."""

from __future__ import annotations

from dataclasses import replace

from realgen.benchmark.arena.result import ArenaResult
from realgen.benchmark.results import REAL, ModelResults, Results
from realgen.functional.estimate import Estimate

WIN_RATE, CALLED_REAL, ELO = "arena_win_rate", "arena_called_real", "arena_elo"
"""Wins against the real images in percent, ties as half; images called real on their own in percent; Elo."""


def with_arena(results: Results, arena: ArenaResult) -> Results:
    """Results with an arena's findings, in full and as scores of each model.

    Returns:
        The results, with ``arena_win_rate``, ``arena_called_real`` and ``arena_elo`` where the arena has them.
    """
    scores, categories = _scores(arena)

    def scored(model: ModelResults) -> ModelResults:
        own = categories.get(model.name, {})
        names = dict.fromkeys([*model.categories, *own])
        by_category = {name: {**model.categories.get(name, {}), **own.get(name, {})} for name in names}
        return replace(model, scores={**model.scores, **scores.get(model.name, {})}, categories=by_category)

    return replace(results.map_models(scored), arena=arena)


def _scores(arena: ArenaResult) -> tuple[dict[str, dict[str, Estimate]], dict[str, dict[str, dict[str, Estimate]]]]:
    """Return scores by model, and by model and category."""
    shares = [(m.first, WIN_RATE, m.win_rate, m.categories) for m in arena.matchups if m.second == REAL]
    shares += [(single.model, CALLED_REAL, single.real_share, single.categories) for single in arena.singles]
    scores: dict[str, dict[str, Estimate]] = {}
    categories: dict[str, dict[str, dict[str, Estimate]]] = {}
    for model, name, share, by_category in shares:
        if share is not None:
            scores.setdefault(model, {})[name] = replace(share.scaled(100.0), higher_is_better=True)
        for category, part in by_category.items():
            own = categories.setdefault(model, {}).setdefault(category, {})
            own[name] = replace(part.scaled(100.0), higher_is_better=True)
    for place in arena.ranking:
        scores.setdefault(place.model, {})[ELO] = replace(place.elo, higher_is_better=True)
    return scores, categories
