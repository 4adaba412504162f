"""Results survive their files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from realgen.benchmark import ImageRow, ModelResults, Results
from realgen.benchmark.arena.result import ArenaResult, Matchup, PairRow, SingleScore
from realgen.benchmark.results import read_results, read_rows, write_results, write_rows
from realgen.functional.estimate import Estimate

RATE = Estimate(0.5, 0.25, 0.75, 4)
ARENA = ArenaResult(
    judge="vlm", protocol="swapped",
    matchups=(Matchup("flux", "real", RATE, {"people": RATE}, 1, 2, 1, 1, 1, 0.625),),
    singles=(SingleScore("real", None, {}, 0),), ranking={"flux": Estimate(1034.7)},
    first_share=0.625, disagreement_share=None,
    pairs=(PairRow("00000", "people", "flux", "real", "x", "y", None, None, "", "first", "unread"),),
    questions=3, asked=3, unreadable=0, failed=0, tokens_in=10, tokens_out=2, requests=3,
)  # fmt: skip
RESULTS = Results(
    models=(
        ModelResults(
            "flux",
            {"omniaid": Estimate(47.2, 45.0, 49.0, 4, True), "kid": Estimate(None)},
            {"people": {"omniaid": Estimate(1.0)}},
            {"omniaid": {"auroc": Estimate(0.9, count=8)}},
            "images/flux",
            "0123abcd",
        ),
    ),
    real=ModelResults("real", {"omniaid": Estimate(90.0)}),
    rows=(
        ImageRow("00000", "real", "people", "a man,\n\"quoted\"", "/photos/00000.jpg", {"omniaid": 0.1 + 0.2}),
        ImageRow("00000", "flux", "people", "a man", "images/flux/00000.png", {"omniaid": None}, "a man, film grain"),
    ),
    detectors=("omniaid",),
    arena=ARENA,
    settings={"seed": 0, "warnings": ["w"]},
)  # fmt: skip


def test_round_trip(tmp_path: Path) -> None:
    write_results(RESULTS, tmp_path / "run")
    assert read_results(tmp_path / "run") == RESULTS


@pytest.mark.attack("files", "names and texts that cannot be read back from a table")
@pytest.mark.parametrize("text", ["caf\udce9", "a\rb", "a\r\nb", "\n=1", "'=1", "a\0b", "x" * 200_000])
def test_any_text_is_read_back(text: str, tmp_path: Path) -> None:
    row = ImageRow(text, text, text, text, f"/photos/{text}.jpg", {text: 1.0}, text)
    write_results(Results((ModelResults(text, {}),), rows=(row,)), tmp_path)
    assert read_results(tmp_path) == Results((ModelResults(text, {}),), rows=(row,))


def test_json_is_strict(tmp_path: Path) -> None:
    found = ModelResults("m", {"a": Estimate(math.nan, -math.inf, math.inf)})
    write_results(Results((found,)), tmp_path)

    def refuse(name: str) -> float:
        raise AssertionError(name)

    loaded = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert loaded["models"][0]["scores"]["a"] == Estimate(None).__dict__


def test_rows_with_different_values_share_one_table(tmp_path: Path) -> None:
    rows = (
        ImageRow("0", "a", "", "p", "x", {"one": 1.0}),
        ImageRow("0", "b", "", "p", "y", {"two": 0.25, "one": math.nan}),
    )
    write_rows(rows, tmp_path / "rows.csv")
    assert [row.values for row in read_rows(tmp_path / "rows.csv")] == [
        {"one": 1.0, "two": None},
        {"one": None, "two": 0.25},
    ]


@pytest.mark.parametrize(("text", "message"), [("[]", "no results file"), ("{", "no results file")])
def test_other_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_results(tmp_path)


def test_a_file_of_an_earlier_version_says_what_to_do(tmp_path: Path) -> None:
    write_results(RESULTS, tmp_path)
    path = tmp_path / "results.json"
    path.write_text(path.read_text().replace('"count"', '"number"'))
    with pytest.raises(
        ValueError, match=r"Estimate has no field 'number'\). If an earlier version wrote it, run realgen"
    ):
        read_results(tmp_path)


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"results\.json cannot be read: No such file"):
        read_results(tmp_path)
    (tmp_path / "rows.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match=r"must begin with the columns name, model, .* got a, b"):
        read_rows(tmp_path / "rows.csv")


def test_paths_start_at_the_run(tmp_path: Path) -> None:
    assert RESULTS.rows[1].path(tmp_path) == tmp_path / "images/flux/00000.png"
    assert RESULTS.rows[0].path(tmp_path) == Path("/photos/00000.jpg")
