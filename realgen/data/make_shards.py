"""Turn a file of prompts into WebDataset tar shards: ``python -m realgen.data.make_shards --help``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from realgen.data.shards import write_shards

_EXAMPLE = """\
examples:
  python -m realgen.data.make_shards --input prompts.txt --output data/prompts/train
  python -m realgen.data.make_shards --input captions.jsonl --images images --output data/prompts/validation

input formats:
  .txt    one prompt per line
  .jsonl  one object per line: {"prompt": "a cat", "image": "cats/1.png", ...}; "image" is optional and relative to
          --images, every other field is kept as the prompt's metadata
"""


class PromptFile:
    """Read a .txt or .jsonl file of prompts line by line, and keep what a user should know of it.

    Args:
        path: The file, UTF-8.
        images: Folder that the ``image`` of a line is relative to; None if lines may not have one.

    Raises:
        ValueError: If the file does not exist or is neither .txt nor .jsonl, or ``images`` is not a folder.
    """

    def __init__(self, path: Path, *, images: Path | None = None) -> None:
        if path.suffix not in (".txt", ".jsonl"):
            raise ValueError(f"--input must end in .txt or .jsonl, got {str(path)!r}.")
        if not path.is_file():
            raise ValueError(f"--input {path} does not exist.")
        if images is not None and not images.is_dir():
            raise ValueError(f"--images {images} is not a folder.")
        self.path = path
        self.images = images
        self.line: int | None = None
        """Number of the line being read, from 1; None before the first and after the last."""
        self.num_empty = 0
        """Empty lines, which are skipped."""
        self.num_images = 0
        """Lines with an image."""
        self.duplicates: list[tuple[int, int]] = []
        """(line, line where the same prompt stands first)."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield samples as ``write_shards`` takes them.

        Raises:
            ValueError: If a line is not UTF-8, not a JSON object, or has an ``image`` that is missing.
        """
        first_lines: dict[str, int] = {}
        with self.path.open("rb") as file:
            for self.line, raw in enumerate(file, start=1):
                text = raw.decode("utf-8-sig").strip()
                if not text:
                    self.num_empty += 1
                    continue
                sample = {"prompt": text} if self.path.suffix == ".txt" else self._parse(text)
                first = first_lines.setdefault(str(sample.get("prompt")).strip(), self.line)
                if first != self.line:
                    self.duplicates.append((self.line, first))
                yield sample
        self.line = None

    def _parse(self, text: str) -> dict[str, Any]:
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"expected an object with a 'prompt', got {type(row).__name__}")
        if row.get("image") is not None:
            if self.images is None:
                raise ValueError("the line has an 'image', but --images does not say where images are")
            if not isinstance(row["image"], str):
                raise ValueError(f"'image' must be a path, got {row['image']!r}")
            row["image"] = self.images / row["image"]
            self.num_images += 1
        return row


def make_shards(
    input: Path, output: Path, *, images: Path | None = None, samples_per_shard: int = 1000, overwrite: bool = False
) -> str:
    """Write the prompts of a file as shards, with a progress bar on standard error.

    Args:
        input: A .txt file with a prompt per line, or a .jsonl file with an object per line.
        output: Folder of the shards, see ``write_shards``.
        images: Folder that the ``image`` of a .jsonl line is relative to.
        samples_per_shard: At least 1.
        overwrite: Replace the shards of the folder.

    Returns:
        What was done, for the user to read.

    Raises:
        ValueError: If the file or the output cannot be used; a line at fault is named.
    """
    from tqdm import tqdm

    prompts = PromptFile(input, images=images)
    with input.open("rb") as file:
        num_lines = sum(1 for _ in file)
    with tqdm(total=num_lines, unit="line", disable=None) as progress:

        def samples() -> Iterator[dict[str, Any]]:
            for sample in prompts:
                progress.update((prompts.line or 0) - progress.n)
                yield sample

        try:
            paths = write_shards(samples(), output, samples_per_shard, overwrite=overwrite)
        except ValueError as error:
            where = f"{input}, line {prompts.line}: " if prompts.line is not None else ""
            raise ValueError(f"{where}{error}") from error
    num_samples = num_lines - prompts.num_empty
    report = [
        f"wrote {num_samples} prompts, {prompts.num_images} with an image, as {paths[0]}"
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
    parser = argparse.ArgumentParser(
        prog="python -m realgen.data.make_shards",
        description="Write prompts, and if wanted their real images, as WebDataset tar shards. "
        "The same input gives the same bytes; nothing is written if the input has an error.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--input", type=Path, required=True, metavar="FILE", help="prompts, .txt or .jsonl, UTF-8")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder of the shards: DIR/NAME-000000.tar, ..."
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the real images that .jsonl lines name")
    parser.add_argument(
        "--samples_per_shard", type=int, default=1000, metavar="N", help="prompts in one tar (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the shards that --output already holds")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, or 1 with the cause on standard error."""
    try:
        print(make_shards(**vars(parse_arguments(arguments))))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
