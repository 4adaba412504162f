"""What Arena-Scoring found, as texts, charts and pairs for the report."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from realgen.benchmark.arena.result import ArenaResult, Matchup, PairRow
from realgen.benchmark.report.tables import Table
from realgen.benchmark.report.view import Chart, chart_of
from realgen.benchmark.results import REAL, ImageRow, Results
from realgen.functional.estimate import Estimate


class Pair(NamedTuple):
    """Two images of one prompt, and what the judge said of them."""

    first: ImageRow
    second: ImageRow
    outcome: float | None
    """1 where the first one won, 0 where it lost."""
    note: str
    """Why it is a tie; empty where it is none."""
    reasons: tuple[tuple[str, str], ...]
    """In which order they were shown, and the judge's reason."""


def arena_view(results: Results, number: int) -> dict[str, list[Any]] | None:
    """Return sentences, tables, charts and at most ``number`` pairs for the report; None where no arena was held."""
    arena = results.arena
    if arena is None:
        return None
    wins = [(f"{match.first} against {match.second}", match.categories) for match in arena.matchups]
    singles = [(each.model, each.categories) for each in arena.singles]
    ranked = [(model, str(place), elo.text(".0f")) for place, (model, elo) in enumerate(arena.ranking.items(), 1)]
    tables = [
        _matchups(arena.matchups),
        Table("Bradley-Terry ranking", ("contestant", "place", "Elo"), ranked),
        _categories("Win rate by category", wins),
        _categories("Called real when seen alone, by category", singles),
    ]
    return {
        "lines": list(_lines(arena)),
        "tables": [table for table in tables if table.rows],
        "charts": [chart for chart in _charts(arena) if chart is not None],
        "pairs": list(_pairs(results, arena.pairs, number)),
    }


def chosen_pairs(pairs: Sequence[PairRow], number: int) -> list[PairRow]:
    """Return pairs of every kind in turn: won, lost, disagreement, tie, of each matchup; none that was not judged."""
    kinds: dict[tuple[Any, ...], list[PairRow]] = {}
    for pair in pairs:
        if pair.outcome is not None:
            agreed_tie = pair.outcome == 0.5 and pair.forward == "tie"
            kinds.setdefault((pair.first, pair.second, pair.outcome, agreed_tie), []).append(pair)
    turns = zip_longest(*kinds.values())
    return [pair for turn in turns for pair in turn if pair is not None][:number]


def _lines(arena: ArenaResult) -> Iterator[str]:
    yield f"Judge: {arena.judge}."
    if arena.protocol == "swapped":
        yield "Each pair was asked in both orders; where the two disagree it is a tie, and ties are half a win."
    else:
        yield "The published protocol: the generated image was shown first, always, so that a bias of position counts."
    if arena.first_share is not None:
        text = f"The image shown first was chosen in {arena.first_share:.0%} of the decided replies (50% = no bias)"
        share = arena.disagreement_share
        yield text + ("." if share is None else f"; of {share:.0%} of the pairs the two orders disagreed.")
    yield (
        f"{arena.questions:,} questions, {arena.asked:,} of them asked in this run; {arena.unreadable:,} replies could "
        f"not be read, {arena.failed:,} got no answer. {arena.tokens_in:,} tokens in, {arena.tokens_out:,} out, "
        f"{arena.requests:,} requests."
    )


def _matchups(matchups: Sequence[Matchup]) -> Table:
    headings = ("contestants", "win rate", "won", "tied", "lost", "orders disagreed", "not judged", "first chosen")
    rows = tuple(
        (
            f"{match.first} against {match.second}",
            _percent(match.win_rate),
            *(f"{n:,}" for n in (match.wins, match.ties, match.losses, match.disagreements, match.unjudged)),
            "-" if match.first_share is None else f"{match.first_share:.0%}",
        )
        for match in matchups
    )
    return Table("Pairs; those whose orders disagreed are among the ties", headings, rows)


def _categories(caption: str, columns: Sequence[tuple[str, Mapping[str, Estimate]]]) -> Table:
    shown = [(name, found) for name, found in columns if found]
    names = dict.fromkeys(category for _, found in shown for category in found)
    rows = tuple((category, *(_percent(found.get(category)) for _, found in shown)) for category in names)
    return Table(caption, ("category", *(name for name, _ in shown)), rows)


def _charts(arena: ArenaResult) -> Iterator[Chart | None]:
    even = "ties are half a win; the interval is over prompts"
    yield _shares(
        "Win rate against the photographs",
        [(match.first, match.win_rate) for match in arena.matchups if match.second == REAL],
        note=f"Share of pairs in which the model's image was preferred; {even}. At 50% (line) they are even.",
        reference=50.0,
    )
    yield _shares(
        "Win rate against each other",
        [(f"{m.first} against {m.second}", m.win_rate) for m in arena.matchups if m.second != REAL],
        note=f"Of the first one named; {even}. At 50% (line) they are even.",
        reference=50.0,
    )
    real = next((each.real_share for each in arena.singles if each.model == REAL), None)
    yield _shares(
        "Called real when seen alone",
        [(each.model, each.real_share) for each in arena.singles],
        note="Share of images that the judge called real."
        + ("" if real is None else " The line is the real images' share."),
        reference=None if real is None else real.scaled(100.0).value,
    )
    note = "Bradley-Terry strengths on Elo's scale: 100 points more win 64% of the pairs, 400 points 91%. "
    note += "The line at 1000 is the mean of all contestants."
    if not all(elo.has_limits for elo in arena.ranking.values()):
        note += " Who won all, lost all or tied all has no interval: drawing these prompts again tells nothing."
    texts = [elo.text(".0f") for elo in arena.ranking.values()]
    yield chart_of("Elo", list(arena.ranking.items()), texts, arrow="↑", note=note, dots=True, reference=1000.0)


def _shares(
    name: str, shares: Sequence[tuple[str, Estimate | None]], *, note: str, reference: float | None
) -> Chart | None:
    """Return a chart in percent; None where nothing was judged."""
    scores = [(label, None if share is None else share.scaled(100.0)) for label, share in shares]
    texts = [_percent(share) for _, share in shares]
    return chart_of(name, scores, texts, arrow="↑", note=note, percent=True, dots=True, reference=reference, unit="%")


def _pairs(results: Results, pairs: Sequence[PairRow], number: int) -> Iterator[Pair]:
    rows = {(row.model, row.name): row for row in results.rows}

    def image(pair: PairRow, model: str, file: str) -> ImageRow:
        return rows.get((model, pair.name)) or ImageRow(pair.name, model, pair.category, "", file)

    for pair in chosen_pairs(pairs, number):
        first, second = image(pair, pair.first, pair.first_file), image(pair, pair.second, pair.second_file)
        given = ((first.model, pair.forward_reason), (second.model, pair.backward_reason))
        agreed = pair.forward == "tie" and pair.backward in ("tie", None)
        note = "" if pair.outcome != 0.5 else "the judge preferred neither" if agreed else "the two orders disagreed"
        reasons = tuple((f"with {model} shown first", reason) for model, reason in given if reason)
        yield Pair(first, second, pair.outcome, note, reasons)


def _percent(share: Estimate | None) -> str:
    return "-" if share is None else share.scaled(100.0).text(".1f", "%")
