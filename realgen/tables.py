"""Rows as a table: on the terminal, by rich, and in Markdown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from rich.box import HEAVY_HEAD, SIMPLE
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

Cell = str | Text
"""A text is shown as it is, brackets too: nothing in it is read as rich's markup."""


def terminal_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[Cell] | None],
    *,
    title: str | None = None,
    text_columns: Collection[int] = (0,),
    framed: bool = True,
) -> Table:
    """Build a table for ``rich.console.Console.print``.

    Args:
        headings: One per column.
        rows: Cells in the order of the headings, missing ones empty; None sets its neighbours apart.
        title: Above the table.
        text_columns: Columns that are flush left; the others, of numbers, are flush right.
        framed: Draw all borders, and let cells other than the first column's wrap where the terminal is narrow. False
            draws a line below the headings only, and wraps nothing.

    Returns:
        The table.

    Example:
        >>> table = terminal_table(["score", "value"], [["kid", "0.25 [0.20, 0.30]"]], framed=False)
        >>> [column.justify for column in table.columns], table.row_count
        (['left', 'right'], 1)
    """
    table = Table(title=title, title_justify="left", box=HEAVY_HEAD if framed else SIMPLE, pad_edge=framed)
    for column, heading in enumerate(headings):
        justify: JustifyMethod = "left" if column in text_columns else "right"
        table.add_column(Text(heading), justify=justify, no_wrap=column == 0 or not framed)
    for row in rows:
        if row is None:
            table.add_section()
        else:
            table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return table


def styled(style: str, *cells: str) -> list[Cell]:
    """Return the cells in one of rich's styles, for example ``bold`` or ``dim``.

    Example:
        >>> styled("bold", "all", "3.2")
        [<text 'all' [Span(0, 3, 'bold')] ''>, <text '3.2' [Span(0, 3, 'bold')] ''>]
    """
    return [Text.assemble((cell, style)) for cell in cells]


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    r"""Write a table in Markdown.

    Args:
        headings: One per column.
        rows: Cells in the order of the headings, written with ``str``; a bar in one does not end it.

    Returns:
        Lines, without a final line break.

    Example:
        >>> print(markdown_table(["model", "kid"], [["a|b", 0.25]]))
        | model | kid |
        |---|---|
        | a\|b | 0.25 |
    """
    lines = [[str(cell).replace("|", r"\|") for cell in row] for row in (headings, *rows)]
    texts = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([texts[0], "|" + "---|" * len(headings), *texts[1:]])
