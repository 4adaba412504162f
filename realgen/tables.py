"""Rows as a table: on the terminal, by rich, and in Markdown; and rows of a CSV file that a kill may have cut."""

import csv
import io
import math
import re
from collections.abc import Collection, Iterable, Sequence
from itertools import zip_longest
from pathlib import Path

from rich.box import HEAVY_HEAD, SIMPLE
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from realgen.checks import printable

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)")
VERDICT_STYLES = {"better": "green", "worse": "red", "not told apart": "dim", "unknown": "dim"}
Cell = str | Text
"""A text is shown as it is, brackets too: nothing in it is read as rich's markup."""


def terminal_table(
    headings: Sequence[Cell],
    rows: Iterable[Sequence[Cell] | None],
    *,
    title: str | None = None,
    text_columns: Collection[int] = (0,),
    framed: bool = True,
) -> Table:
    """Build a table for ``rich.console.Console.print``.

    A row has cells in the order of the headings, missing ones empty; None sets its neighbours apart. ``text_columns``
    are flush left, the others, of numbers, flush right. ``framed`` draws all borders, and lets cells wrap between words
    where the terminal is narrow, those of the first column inside words; False draws a line below the headings only,
    and wraps nothing.
    """
    table = Table(title=title, title_justify="left", box=HEAVY_HEAD if framed else SIMPLE, pad_edge=framed)
    for column, heading in enumerate(headings):
        justify: JustifyMethod = "left" if column in text_columns else "right"
        table.add_column(_cell(heading), justify=justify, no_wrap=column == 0 or not framed, overflow="fold")
    for row in rows:
        if row is None:
            table.add_section()
        else:
            table.add_row(*map(_cell, row))
    for each in table.columns[1:] if framed else ():  # or rich would cut numbers
        words = (word for cell in (each.header, *each.cells) for word in str(cell).split())
        each.min_width = max(map(len, words), default=0)
    return table


def _cell(cell: Cell) -> Text:
    return cell if isinstance(cell, Text) else Text(one_line(cell))


def styled(style: str, *cells: str) -> list[Cell]:
    """Return the cells in one of rich's styles, for example ``bold`` or ``dim``."""
    return [Text.assemble((one_line(cell), style)) for cell in cells]


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a table in Markdown, cells with ``str`` in the order of the headings; a bar in one does not end it."""
    lines = [[one_line(str(cell)).replace("|", r"\|") for cell in row] for row in (headings, *rows)]
    texts = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([texts[0], "|" + "---|" * len(headings), *texts[1:]])


def csv_cell(value: object) -> object:
    """Return what a CSV file shall hold, so that a spreadsheet reads no text as a formula.

    A text that begins like one gets an apostrophe, which ``csv_text`` takes away again; a text that is a number stays
    one, and of a number that is not finite nothing is written.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    is_text = isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value)
    return f"'{value}" if is_text else value


def csv_bytes(rows: Iterable[Iterable[object]]) -> bytes:
    """Return a CSV file of these rows, header included, each cell by ``csv_cell``; None is an empty one."""
    file = io.StringIO(newline="")
    csv.writer(file).writerows(map(csv_cell, row) for row in rows)
    return file.getvalue().encode(errors="surrogateescape")  # names of files that are not UTF-8


def csv_text(cell: str) -> str:
    """Return the text that ``csv_cell`` made safe."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Read names of columns, and rows by column, of a CSV file, texts as before ``csv_cell``; missing ones empty."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return _parse_csv(file)


def complete_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file without a last line that has no end, as a process that was killed leaves it."""
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return _parse_csv(io.StringIO(f"{whole.decode()}\n", newline=""))[1]


def _parse_csv(file: Iterable[str]) -> tuple[list[str], list[dict[str, str]]]:
    csv.field_size_limit(2**31 - 1)  # Python's own limit is 131,072 characters, and a prompt may be longer
    header, *lines = list(csv.reader(file)) or [[]]
    names = [csv_text(name) for name in header]
    return names, [dict(zip_longest(names, map(csv_text, line[: len(names)]), fillvalue="")) for line in lines if line]


def one_line(text: str) -> str:
    """Return a text on one line, without control characters."""
    return printable(" ".join(text.splitlines()) if "\n" in text or "\r" in text else text)
