"""Tables say what the results hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from realgen.benchmark import ModelResults, Results
from realgen.benchmark.report.page import show, write_outputs
from realgen.benchmark.report.tables import best_model, markdown, print_tables, remarks
from realgen.benchmark.results import ImageRow
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


def shown(results: Results) -> str:
    console = Console(width=140, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        print_tables(results, console)
    return capture.get()


def test_terminal_shows_intervals() -> None:
    text = shown(RESULTS)
    assert "RealBench, 80 prompts" in text
    assert "omniaid ↑" in text
    assert "kid ↓" in text
    assert "47.2 [45.0, 49.0]" in text
    assert "\x1b[1m0.250" not in text  # a number without an interval is no better than another one
    assert "9.500 [9.000, 10.000]" in text or "9.5 [9.0, 10.0]" in text


@pytest.mark.parametrize(("noise", "best"), [(0.0, True), (0.3, False)])
def test_a_model_is_bold_that_is_better_on_the_same_prompts(noise: float, best: bool) -> None:
    """Prompts differ more than models: only the interval of the paired difference can tell."""
    rows = []
    for number in range(40):
        p_real = number / 40
        for model, value in (("a|b", p_real + 0.05 + noise * (-1) ** number), ("c", p_real), ("real", 1.0)):
            rows.append(ImageRow(str(number), model, "", "", "", {"omniaid": value}))
    text = shown(replace(RESULTS, rows=tuple(rows)))
    assert ("\x1b[1m47.2 [45.0, 49.0]\x1b[0m" in text) == best
    assert "\x1b[1m91.6" not in text  # the real images take no part
    assert "\x1b[1m0.250" not in text  # nor a score of all images together
    assert best_model(replace(RESULTS, rows=tuple(rows), models=RESULTS.models[:1]), "omniaid") is None


def test_terminal_shows_what_the_detectors_can_tell() -> None:
    text = shown(RESULTS)
    assert "Each model's images against the real images" in text
    assert "0.930" in text
    assert "0.520" in text
    assert "against the real images" not in shown(Results(RESULTS.models[:0]))


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
    assert r"| score | real | a\|b | c |" in lines
    assert "| omniaid ↑ | 91.6 [90.0, 93.0] | 47.2 [45.0, 49.0] | 9.5 [9.0, 10.0] |" in lines
    assert "| kid ↓ | - | 0.500 | 0.250 |" in lines
    assert r"| omniaid | a\|b | 0.930 | 0.800 | - | - | - | - |" in lines
    by_category = lines.index("## omniaid ↑ by category")
    assert lines[by_category + 2] == r"| category | a\|b |"
    assert lines[by_category + 4] == "| people | 12.5 [10.0, 15.0] |"
    assert "## kid ↓ by category" not in lines
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


def test_names_and_notes_from_outside_are_no_markup_and_move_no_cursor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "[red]a[/b]\x1b[2J$\\frac$"
    scores = {"omniaid": Estimate(0.5, 0.4, 0.6, 8, True)}
    results = Results((ModelResults(name, scores, {f"c\x1b]0;x\x07{name}": scores}),), settings={"warnings": [name]})
    files = write_outputs(results, tmp_path)
    show(results, files)
    out = capsys.readouterr().out
    shown = r"[red]a[/b]\x1b[2J$\frac$"
    assert f"note: {shown}" in out
    assert out.count(shown) == 2  # the heading, too
    for text in (out, *(files[kind].read_text(encoding="utf-8") for kind in ("table", "report"))):
        assert shown in text
        assert not set("\x1b\x07") & set(text)
