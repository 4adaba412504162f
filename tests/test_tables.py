"""The one writer of tables."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from realgen.tables import markdown_table, styled, terminal_table


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
