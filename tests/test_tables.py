"""The one writer of tables."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from rich.console import Console
from rich.text import Text

from realgen.tables import complete_rows, csv_cell, markdown_table, read_csv, styled, terminal_table


def shown(table: object, width: int = 60) -> str:
    console = Console(width=width, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_brackets_are_text_and_styles_are_kept() -> None:
    text = shown(terminal_table(["a [b]", "n"], [["[red]x[/]", styled("bold", "1.0 [0.5, 1.5]")[0]]], title="t"))
    assert "a [b]" in text
    assert "[red]x[/]" in text
    assert "\x1b[1m1.0 [0.5, 1.5]\x1b[0m" in text


def test_numbers_are_flush_right_and_texts_flush_left() -> None:
    rows = [["x", "1", "worse"], None, ["long name", "22", Text("ok")]]
    table = terminal_table(["name", "n", "verdict"], rows, text_columns=(0, 2), framed=False)
    assert [column.justify for column in table.columns] == ["left", "right", "left"]
    lines = [line.rstrip() for line in Text.from_ansi(shown(table)).plain.splitlines()]
    assert lines[1:6] == [
        " name         n   verdict",
        " ────────────────────────",
        " x            1   worse",
        "",
        " long name   22   ok",
    ]


def test_an_unframed_table_does_not_wrap() -> None:
    rows = [["name", "a long text of many words"]]
    assert "long text of" not in shown(terminal_table(["n", "t"], rows, framed=True), width=20)
    assert len(shown(terminal_table(["n", "t"], rows, framed=False), width=20).strip().splitlines()) == 3


def test_markdown_escapes_bars_and_has_a_line_per_row() -> None:
    assert markdown_table(["a|b"], [[1], ["x|y"]]) == "| a\\|b |\n|---|\n| 1 |\n| x\\|y |"
    assert markdown_table(["a", "b"], []) == "| a | b |\n|---|---|"


def test_csv_cells_are_no_formulas_and_come_back(tmp_path: Path) -> None:
    texts = ["=1+1", "+cmd", "-x", "@SUM(A1)", "\tx", "\rx", "'=x", "'tis", "plain", "-0.5", "x" * 200_000, 'a\nb,c"d']
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["=name", "value"], *([csv_cell(text), csv_cell(-1.5)] for text in texts)])
    header, rows = read_csv(path)
    assert header == ["=name", "value"]
    assert [row["=name"] for row in rows] == texts
    assert {row["value"] for row in rows} == {"-1.5"}
    assert complete_rows(path) == rows
    with path.open(newline="", encoding="utf-8") as file:
        begins = [row[0] for row in csv.reader(file)][1:8]
    assert [text[:2] for text in begins] == ["'=", "'+", "'-", "'@", "'\t", "'\r", "''"]


def test_numbers_that_are_not_finite_leave_their_cell_empty() -> None:
    assert [csv_cell(value) for value in (math.nan, math.inf, -math.inf, 0.5)] == ["", "", "", 0.5]


def test_foreign_names_in_tables_are_plain_text() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(terminal_table(["model [/b]"], [["a[/b]\x1b[31m\nb"], styled("bold", "[red]\x07")]))
    shown = console.file.getvalue()
    assert "model [/b]" in shown
    assert "a[/b]\\x1b[31m b" in shown
    assert "[red]\\x07" in shown
    assert markdown_table(["a"], [["x\ny\x1b[0m"]]).splitlines()[-1] == "| x y\\x1b[0m |"
