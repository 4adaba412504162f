"""Tables say what the results hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from realgen.benchmark import ModelResults, Results
from realgen.benchmark.report.outputs import show, write_outputs
from realgen.benchmark.report.tables import check_table, markdown, remarks, score_table
from realgen.functional.estimate import Estimate

RESULTS = Results(
    models=(
        ModelResults(
            "a|b",
            {"omniaid": Estimate(47.21, 45.0, 49.0, 80, True), "kid": Estimate(0.5, None, None, 80, False)},
            {"people": {"omniaid": Estimate(12.5, 10.0, 15.0, 8, True)}},
            {"omniaid": {"auroc": Estimate(0.93), "accuracy": Estimate(0.8), "calibration_error": Estimate(None)}},
        ),
        ModelResults(
            "c",
            {"omniaid": Estimate(9.5, 9.0, 10.0, 80, True), "kid": Estimate(0.25, None, None, 80, False)},
            {},
            {"omniaid": {"auroc": Estimate(0.52), "accuracy": Estimate(0.5), "calibration_error": Estimate(0.1)}},
        ),
    ),
    real=ModelResults("real", {"omniaid": Estimate(91.6, 90.0, 93.0, 80, True)}),
    detectors=("omniaid",),
    settings={"warnings": ["c: poor files"], "seed": 3},
)


def shown(table: Table) -> str:
    console = Console(width=140, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_terminal_shows_intervals_and_the_best_model() -> None:
    text = shown(score_table(RESULTS))
    assert "RealBench, 80 prompts" in text
    assert "omniaid ↑" in text
    assert "kid ↓" in text
    assert "\x1b[1m47.2 [45.0, 49.0]\x1b[0m" in text  # bold
    assert "\x1b[1m0.250\x1b[0m" in text
    assert "\x1b[1m91.6" not in text  # the real images take no part
    assert "9.500 [9.000, 10.000]" in text or "9.5 [9.0, 10.0]" in text


def test_terminal_shows_what_the_detectors_can_tell() -> None:
    text = shown(check_table(RESULTS))
    assert "0.930" in text
    assert "0.520" in text
    assert check_table(Results(RESULTS.models[:0])) is None


def test_a_detector_that_cannot_tell_is_remarked() -> None:
    (remark,) = remarks(RESULTS)
    assert remark.startswith("omniaid hardly tells c's images from the real images (AUROC 0.52)")


@pytest.mark.parametrize(
    ("auroc", "said"), [(0.39, "is inverted on"), (0.41, "hardly tells"), (0.59, "hardly tells"), (0.61, None)]
)
def test_a_detector_far_below_chance_is_called_inverted(auroc: float, said: str | None) -> None:
    found = remarks(Results((ModelResults("m", {}, {}, {"d": {"auroc": Estimate(auroc)}}),)))
    assert [f"d {said} m's images" in remark for remark in found] == ([] if said is None else [True])
    assert all(f"(AUROC {auroc})" in remark for remark in found)


def test_markdown_has_every_table() -> None:
    lines = markdown(RESULTS).splitlines()
    assert r"| a\|b | 47.2 [45.0, 49.0] | 0.500 |" in lines
    assert "| real | 91.6 [90.0, 93.0] | - |" in lines
    assert r"| a\|b | omniaid | 0.930 | 0.800 | - |" in lines
    assert lines[lines.index("## omniaid by category") + 2] == "| model | people |"
    assert "## kid by category" not in lines
    assert "- c: poor files" in lines
    assert "- seed: `3`" in lines


def test_files_and_screen(tmp_path: Path, capsys) -> None:
    files = write_outputs(RESULTS, tmp_path)
    assert {path.name for path in files.values()} == {"results.json", "results.md", "images.csv", "report.html"}
    assert all(path.is_file() for path in files.values())
    show(RESULTS, files)
    out = capsys.readouterr().out
    assert "note: c: poor files" in out
    assert str(tmp_path / "report.html") in out
