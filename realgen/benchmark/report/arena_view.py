"""What Arena-Scoring found, as texts, bars and pairs for the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

from realgen.benchmark.report.charts import Chart, Entry, chart
from realgen.benchmark.results import REAL, ImageRow, Results, Score

Found = Mapping[str, Any]
"""A part of what ``ArenaResult.to_dict`` gives."""


@dataclass(frozen=True)
class ArenaTable:
    """A table of texts."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Pair:
    """Two images of one prompt, and what the judge said of them."""

    prompt: str
    first: ImageRow
    second: ImageRow
    outcome: Literal["first", "second", "tie"]
    note: str
    """Why it is a tie; empty where it is none."""
    reasons: tuple[tuple[str, str], ...]
    """In which order they were shown, and the judge's reason."""


@dataclass(frozen=True)
class ArenaView:
    """All that the report shows of the arena."""

    lines: tuple[str, ...]
    """Sentences about the judge and the protocol."""
    tables: tuple[ArenaTable, ...]
    charts: tuple[Chart, ...]
    pairs: tuple[Pair, ...]


def arena_view(results: Results, number: int) -> ArenaView | None:
    """The arena's part of the report; None where no arena was held.

    Args:
        results: With ``arena`` as ``ArenaResult.to_dict`` gives it.
        number: Most pairs.
    """
    arena = results.arena
    if arena is None:
        return None
    wins = [(f"{match['first']} against {match['second']}", match["categories"]) for match in arena["matchups"]]
    singles = [(each["model"], each["categories"]) for each in arena["singles"]]
    tables = [
        _matchups(arena["matchups"]),
        _ranking(arena["ranking"]),
        _categories("Win rate by category", wins),
        _categories("Called real when seen alone, by category", singles),
    ]
    return ArenaView(
        lines=tuple(_lines(arena)),
        tables=tuple(table for table in tables if table.rows),
        charts=tuple(_charts(arena)),
        pairs=tuple(_pairs(results, arena["pairs"], number)),
    )


def chosen_pairs(pairs: Sequence[Found], number: int) -> list[Found]:
    """Pairs of every kind in turn: won, lost, disagreement, tie, of each matchup; those that were not judged stay out.

    Args:
        pairs: In the order of the prompts.
        number: Most pairs.

    Example:
        >>> rows = [{"first": "a", "second": "b", "outcome": won, "forward": "first"} for won in (1, 1, 1, 0, None)]
        >>> [row["outcome"] for row in chosen_pairs(rows, 3)]
        [1, 0, 1]
    """
    kinds: dict[tuple[Any, ...], list[Found]] = {}
    for pair in pairs:
        if pair["outcome"] is not None:
            agreed_tie = pair["outcome"] == 0.5 and pair["forward"] == "tie"
            kinds.setdefault((pair["first"], pair["second"], pair["outcome"], agreed_tie), []).append(pair)
    turns = zip_longest(*kinds.values())
    return [pair for turn in turns for pair in turn if pair is not None][:number]


def _lines(arena: Found) -> Iterator[str]:
    yield f"Judge: {arena['judge']}."
    if arena["protocol"] == "swapped":
        yield "Each pair was asked in both orders; where the two disagree it is a tie, and ties are half a win."
    else:
        yield "The published protocol: the generated image was shown first, always, so that a bias of position counts."
    if arena["first_share"] is not None:
        text = f"The image shown first was chosen in {arena['first_share']:.0%} of the decided replies (50% = no bias)"
        share = arena["disagreement_share"]
        yield text + ("." if share is None else f"; of {share:.0%} of the pairs the two orders disagreed.")
    yield (
        f"{arena['questions']:,} questions, {arena['asked']:,} of them asked in this run; {arena['unreadable']:,} "
        f"replies could not be read, {arena['failed']:,} got no answer. {arena['tokens_in']:,} tokens in, "
        f"{arena['tokens_out']:,} out, {arena['requests']:,} requests."
    )


def _matchups(matchups: Sequence[Found]) -> ArenaTable:
    headings = ("contestants", "win rate", "won", "tied", "lost", "orders disagreed", "not judged", "first chosen")
    rows = tuple(
        (
            f"{match['first']} against {match['second']}",
            _percent(match["win_rate"]),
            *(f"{match[name]:,}" for name in ("wins", "ties", "losses", "disagreements", "unjudged")),
            "-" if match["first_share"] is None else f"{match['first_share']:.0%}",
        )
        for match in matchups
    )
    return ArenaTable("Pairs; those whose orders disagreed are among the ties", headings, rows)


def _ranking(ranking: Sequence[Found]) -> ArenaTable:
    rows = tuple(
        (each["model"], str(place), _interval(each["elo"], "{:.0f}"), _interval(each["strength"], "{:.2f}"))
        for place, each in enumerate(ranking, 1)
    )
    return ArenaTable("Bradley-Terry ranking", ("contestant", "place", "Elo", "log-strength"), rows)


def _categories(caption: str, columns: Sequence[tuple[str, Found]]) -> ArenaTable:
    shown = [(name, found) for name, found in columns if found]
    names = dict.fromkeys(category for _, found in shown for category in found)
    rows = tuple((category, *(_percent(found.get(category)) for _, found in shown)) for category in names)
    return ArenaTable(caption, ("category", *(name for name, _ in shown)), rows)


def _charts(arena: Found) -> Iterator[Chart]:
    matchups, singles = arena["matchups"], arena["singles"]
    ties = "ties are half a win; the interval is over prompts"
    yield from _shares(
        "Win rate against the photographs",
        [(match["first"], match["win_rate"]) for match in matchups if match["second"] == REAL],
        note=f"Share of pairs in which the model's image was preferred; {ties}. At 50% (line) they are even.",
        reference=50.0,
    )
    yield from _shares(
        "Win rate against each other",
        [(f"{m['first']} against {m['second']}", m["win_rate"]) for m in matchups if m["second"] != REAL],
        note=f"Of the first one named; {ties}. At 50% (line) they are even.",
        reference=50.0,
    )
    real = next((each["real_share"] for each in singles if each["model"] == REAL), None)
    yield from _shares(
        "Called real when seen alone",
        [(each["model"], each["real_share"]) for each in singles],
        note="Share of images that the judge called real." + (" The line is the real images' share." if real else ""),
        reference=None if real is None else 100 * real["value"],
    )
    ranks = [Entry(each["model"], _score(each["elo"]), _interval(each["elo"], "{:.0f}")) for each in arena["ranking"]]
    if ranks:
        note = "Bradley-Terry strengths on Elo's scale: 100 points more win 64% of the pairs, 400 points 91%. "
        note += "The line at 1000 is the mean of all contestants."
        if any(entry.score.low is None for entry in ranks):
            note += " Who won all, lost all or tied all has no interval: drawing these prompts again tells nothing."
        yield chart("Elo", ranks, arrow="↑", note=note, dots=True, reference=1000.0)


def _shares(
    name: str, shares: Sequence[tuple[str, Found | None]], *, note: str, reference: float | None
) -> Iterator[Chart]:
    """A chart in percent; none where nothing was judged."""
    entries = [Entry(label, _score(share, 100.0), _percent(share)) for label, share in shares if share is not None]
    if entries:
        yield chart(name, entries, arrow="↑", note=note, hundred=True, dots=True, reference=reference, unit="%")


def _score(found: Found, scale: float = 1.0) -> Score:
    value, low, high = (None if found[end] is None else scale * found[end] for end in ("value", "low", "high"))
    return Score(value, low, high, found["number"])


def _pairs(results: Results, pairs: Sequence[Found], number: int) -> Iterator[Pair]:
    rows = {(row.model, row.name): row for row in results.rows}

    def image(pair: Found, side: str) -> ImageRow:
        model, name = pair[side], pair["name"]
        return rows.get((model, name)) or ImageRow(name, model, pair["category"], "", pair[f"{side}_file"])

    for pair in chosen_pairs(pairs, number):
        first, second = image(pair, "first"), image(pair, "second")
        given = ((first.model, pair["forward_reason"]), (second.model, pair["backward_reason"]))
        outcome: Literal["first", "second", "tie"] = "tie"
        if pair["outcome"] in (0, 1):
            outcome = "first" if pair["outcome"] == 1 else "second"
        agreed = pair["forward"] == "tie" and pair["backward"] in ("tie", None)
        note = "" if outcome != "tie" else "the judge preferred neither" if agreed else "the two orders disagreed"
        reasons = tuple((f"with {model} shown first", reason) for model, reason in given if reason)
        yield Pair(first.prompt or first.name, first, second, outcome, note, reasons)


def _percent(found: Found | None) -> str:
    if found is None:
        return "-"
    if found["low"] is None:
        return f"{100 * found['value']:.1f}%"
    return f"{100 * found['value']:.1f}% [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def _interval(found: Found, form: str) -> str:
    if found["low"] is None:
        return form.format(found["value"])
    value, low, high = (form.format(found[end]) for end in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
