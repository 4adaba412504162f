"""Turn a file of prompts into WebDataset tar shards: ``python -m realgen.data.make_shards --help``."""

import argparse
import csv
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from realgen.data.prompt_text import as_utf8, checked_text, open_text
from realgen.data.shards import write_shards
from realgen.failures import disk_failure
from realgen.given_files import parse_json
from realgen.options import OptionParser
from realgen.progress import ProgressBar, at_work

_EXAMPLE = """\
examples:
  python -m realgen.data.make_shards --input prompts.txt --output data/prompts/train
  python -m realgen.data.make_shards --input captions.jsonl --images images --output data/prompts/validation

input formats:
  .txt    one prompt per line
  .jsonl  one object per line: {"prompt": "a cat", "image": "cats/1.png", ...}; "image" is optional and relative to
          --images, every other field is kept as the prompt's metadata
  .csv, .tsv, .parquet  the same as a table with named columns (Parquet needs the package pyarrow)
"""
_TABLES = {".csv": ",", ".tsv": "\t", ".parquet": ""}  # suffixes of tables, and what stands between the cells of a line
_MOST_TOLD = 20  # mistakes of a file that are told one by one


class PromptFile:
    """Read a file of prompts line by line, and keep what a user should know of it.

    Texts are in UTF-8 or what their byte order mark says. ``images`` is the folder that the images of lines are
    relative to; None if lines may not have one. ``prompt_column`` and ``image_column`` say where they stand. ValueError
    if the file does not exist or has another suffix, or ``images`` is not a folder.
    """

    def __init__(
        self, path: Path, *, images: Path | None = None, prompt_column: str = "prompt", image_column: str = "image"
    ) -> None:
        if path.suffix not in (".txt", ".jsonl", *_TABLES):
            raise ValueError(f"--input must end in .txt, .jsonl, {', '.join(_TABLES)}, got {str(path)!r}.")
        if not path.is_file():
            raise ValueError(f"--input {path} does not exist.")
        if images is not None and not images.is_dir():
            raise ValueError(f"--images {images} is not a folder.")
        self.path, self.images, self.prompt_column, self.image_column = path, images, prompt_column, image_column
        self.line = 0
        """Number of the line being read, from 1; in a Parquet file, of the row."""
        self.num_empty = 0
        """Empty lines, which are skipped."""
        self.num_images = 0
        self.duplicates: list[tuple[int, int]] = []
        """(line, line where the same prompt stands first)."""
        self.mistakes: list[str] = []
        """What is wrong with lines, with their numbers."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield samples as ``write_shards`` takes them; ValueError, with all ``mistakes``, after the last line."""
        first_lines: dict[str, int] = {}
        for number, read in self._rows():
            self.line = number
            try:
                row = read()
                if not row:
                    self.num_empty += 1
                    continue
                sample = self._sample(row)
            except ValueError as error:
                self.add_mistake(error)
                continue
            first = first_lines.setdefault(str(sample.get("prompt")).strip(), self.line)
            if first != self.line:
                self.duplicates.append((self.line, first))
            yield sample
        if self.mistakes:
            more = len(self.mistakes) - _MOST_TOLD
            raise ValueError("\n".join([*self.mistakes[:_MOST_TOLD], *([f"... and {more} more"] if more > 0 else [])]))

    def add_mistake(self, error: ValueError) -> None:
        """Note what is wrong with the line being read, to go on and tell all of it at the end."""
        self.mistakes.append(f"{self.path}, {'row' if self.path.suffix == '.parquet' else 'line'} {self.line}: {error}")

    def _rows(self) -> Iterator[tuple[int, Callable[[], Any]]]:
        """Yield number and reader of each line; a reader returns nothing for an empty line."""
        if self.path.suffix == ".parquet":
            rows = (row for batch in _open_parquet(self.path).iter_batches() for row in batch.to_pylist())
            yield from ((number, partial(_cells, row)) for number, row in enumerate(rows, start=1))
            return
        with open_text(self.path) as lines:
            if self.path.suffix in _TABLES:
                yield from self._table_rows(lines)
            else:
                read = _text_row if self.path.suffix == ".txt" else _json_row
                yield from ((number, partial(read, line)) for number, line in enumerate(lines, start=1))

    def _table_rows(self, lines: Iterable[str]) -> Iterator[tuple[int, Callable[[], Any]]]:
        """Yield number and reader of each row; behind a quote that is not closed nothing can be told apart."""
        table = csv.DictReader(lines, delimiter=_TABLES[self.path.suffix], strict=True)
        first = 1
        try:
            if table.fieldnames and self.prompt_column not in table.fieldnames:
                raise ValueError(f"{self.path}: {self._lacks(table.fieldnames)}")
            first = table.line_num + 1
            for row in table:
                yield table.line_num, partial(_cells, row)
                first = table.line_num + 1
        except csv.Error as error:
            yield first, partial(_refuse_quote, error)

    def _lacks(self, columns: Iterable[str]) -> str:
        return f"it has no {self.prompt_column!r}, but {', '.join(list(columns)[:8])}; see --prompt_column"

    def _sample(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row with prompt and image where ``write_shards`` looks for them."""
        if self.path.suffix == ".txt":
            return row
        if self.prompt_column not in row:
            raise ValueError(self._lacks(row))
        image = row.pop(self.image_column, None)
        sample = {"prompt": row.pop(self.prompt_column), **row}
        if image is not None:
            if self.images is None:
                raise ValueError(f"it has an {self.image_column!r}, but --images does not say where images are")
            if not isinstance(image, str):
                raise ValueError(f"{self.image_column!r} must be a path, got {image!r}")
            sample["image"] = self.images / image
            self.num_images += 1
        return sample


def _text_row(line: str) -> dict[str, Any]:
    text = checked_text(line)
    return {"prompt": text} if text else {}


def _json_row(line: str) -> dict[str, Any]:
    text = as_utf8(line).strip()
    try:
        row = parse_json(text) if text else {}
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(row, dict) or (text and not row):
        raise ValueError(f"expected an object with a 'prompt', got {type(row).__name__}")
    return row


def _cells(row: dict[Any, Any]) -> dict[str, Any]:
    """Return the cells of a row that are not empty."""
    if None in row:
        raise ValueError("it has more cells than the first line has names")
    return {name: cell for name, cell in row.items() if cell not in (None, "")}


def _refuse_quote(error: csv.Error) -> NoReturn:
    raise ValueError(
        f'a quote (") of the row that begins here is not closed, or text follows the closing one ({error}); '
        "one in a text is written twice, in a quoted cell; nothing behind it was read"
    )


def _open_parquet(path: Path) -> Any:
    try:
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as error:
        raise ValueError(f"{path}: Parquet files need the package pyarrow: pip install 'realgen[parquet]'") from error
    try:
        return ParquetFile(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from error


def make_shards(
    input: Path,
    output: Path,
    *,
    images: Path | None = None,
    prompt_column: str = "prompt",
    image_column: str = "image",
    samples_per_shard: int = 1000,
    overwrite: bool = False,
) -> str:
    """Write a file's prompts as shards, with a progress bar on standard error; return in words what was done."""
    prompts = PromptFile(input, images=images, prompt_column=prompt_column, image_column=image_column)
    written = 0
    total = 0  # of a Parquet file, which has no lines
    if input.suffix != ".parquet":
        with open_text(input) as lines:
            total = sum(1 for _ in lines)
    with ProgressBar(total, unit="line") as progress:

        def samples() -> Iterator[dict[str, Any]]:
            nonlocal written
            for sample in prompts:
                progress.update(prompts.line - progress.n)
                written += 1
                yield sample

        paths = write_shards(samples(), output, samples_per_shard, overwrite=overwrite, refuse=prompts.add_mistake)
    report = [
        f"wrote {written} prompts, {prompts.num_images} with an image, as {paths[0]}"
        + (f" to {paths[-1].name}" if len(paths) > 1 else "")
    ]
    if prompts.num_empty:
        report.append(f"empty lines, skipped: {prompts.num_empty}")
    if prompts.duplicates:
        line, first = prompts.duplicates[0]
        report.append(
            f"lines that repeat a prompt, and were kept: {len(prompts.duplicates)} (line {line} repeats line {first})"
        )
    return "\n".join(report)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(
        prog="python -m realgen.data.make_shards",
        description="Write prompts, and if wanted their real images, as WebDataset tar shards. "
        "The same input gives the same bytes; nothing is written if the input has an error.",
        epilog=_EXAMPLE,
    )
    parser.add_argument("--input", type=Path, required=True, metavar="FILE", help="prompts; see below, texts in UTF-8")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder of the shards: DIR/NAME-000000.tar, ..."
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the real images that lines name")
    parser.add_argument("--prompt_column", default="prompt", metavar="NAME", help="where prompts stand (%(default)s)")
    parser.add_argument("--image_column", default="image", metavar="NAME", help="where images stand (%(default)s)")
    parser.add_argument(
        "--samples_per_shard", type=int, default=1000, metavar="N", help="prompts in one tar (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the shards that --output already holds")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, or 1 with the cause on standard error."""
    try:
        options = vars(parse_arguments(arguments))
        with at_work("reading prompts"):
            print(make_shards(**options))
    except (ValueError, OSError) as error:
        print(f"error: {disk_failure(error) or error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
