"""An arena's findings as scores, beside those of the detectors."""

from __future__ import annotations

from dataclasses import replace

from realgen.benchmark.arena.result import ArenaResult
from realgen.benchmark.results import REAL, ModelResults, Results
from realgen.functional.estimate import Estimate

WIN_RATE, CALLED_REAL, ELO = "arena_win_rate", "arena_called_real", "arena_elo"
"""Wins against the real images in percent, ties as half; images called real on their own in percent; Elo."""


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
                scores[name] = _percent(share)
            for category, part in by_category.items():
                categories.setdefault(category, {})[name] = _percent(part)
        for ranked in arena.ranking:
            if ranked.model == model.name:
                scores[ELO] = replace(ranked.elo, higher_is_better=True)
        return replace(model, scores=scores, categories=categories)

    return replace(results.map_models(scored), arena=arena)


def _percent(share: Estimate) -> Estimate:
    return replace(share.scaled(100.0), higher_is_better=True)
