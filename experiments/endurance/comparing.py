"""What differs between the folders of two runs that should be equal: tensors, rows, values, pictures, files."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from realgen.checkpoint_files import BEST, PREVIOUS, check_checkpoint

TIMINGS = ("seconds", "busy_seconds", "images_per_second", "time")
"""Names begin so, of columns and keys whose values are measured by a clock."""

CLOCK = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?([+-]\d\d:?\d\d)?|seconds(<[^.]*?>|: `)[\d.]+"
    r"|[\d,]+ seconds of training|[\d,]+ seconds in all.*?</svg>",
    re.DOTALL,
)
"""Dates and seconds in pages, and the report's drawing of seconds."""

MOMENT = {"epoch", "loops"}
"""Lightning's counters in a checkpoint depend on the moment of a save, and make up for it: see ``Recipe.longer``."""

UNREAD = "last_model_path"
"""Of Lightning's, in a checkpoint: where it saved before."""

OWN = ("wandb/", "error", ".lock")
"""Of each start of a run, or of its process: not part of what it leaves. W&B's pictures are compared by content."""


def differences(straight: Path, other: Path) -> list[str]:
    """Compare everything that an undisturbed run left behind with what another one did.

    Args:
        straight: Folder of the undisturbed run.
        other: Folder of the other one.

    Returns:
        One line for each difference, with the file and the place in it; empty if they are equal.
    """
    expected, found = files(straight), files(other)
    lines = [f"{name}: missing" for name in sorted(expected - found)]
    lines += [f"{name}: left over" for name in sorted(found - expected)]
    for name in sorted(expected & found):
        lines += [f"{name}: {line}" for line in file_differences(straight / name, other / name)]
    lost = wandb_media(straight) - wandb_media(other)  # a start that was killed may have left half a picture, too
    return lines + [f"wandb media {name}: missing" for name in sorted(lost)]


def files(folder: Path) -> set[str]:
    """Return the paths of a run's files inside its folder, without those that belong to one start of it."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name for name in names if not name.startswith(OWN)}


def wandb_media(folder: Path) -> set[str]:
    """Return name and content of every picture of an iteration that W&B was given, in all starts of a run."""
    pictures = folder.glob("wandb/*run-*/files/media/images/**/samples_*.png")  # "samples", step, digest
    return {f"{path.stem.partition('_')[0]} {_digest(path)[:8]}" for path in pictures}


def file_differences(one: Path, other: Path) -> list[str]:
    """Compare two files by what they hold; at most three lines."""
    if one.suffix == ".ckpt":
        found = checkpoint_differences(one, other)
    elif one.suffix == ".safetensors":
        found = value_differences(load_file(one), load_file(other))
    elif one.suffix == ".csv":
        found = value_differences(rows(one), rows(other))
    elif one.suffix == ".json":
        found = value_differences(*(json.loads(path.read_text(encoding="utf-8")) for path in (one, other)))
    elif one.suffix in {".yaml", ".md", ".html", ".txt"}:
        found = value_differences(
            *(CLOCK.sub("CLOCK", path.read_text(encoding="utf-8")).splitlines() for path in (one, other))
        )
    elif one.suffix == ".sha256":  # of a checkpoint, which is held against it
        found = iter(())
    else:
        found = iter(() if _digest(one) == _digest(other) else ("other bytes",))
    return [line for line, _ in zip(found, range(3), strict=False)]


def checkpoint_differences(one: Path, other: Path) -> Iterator[str]:
    """Yield what is wrong with a checkpoint, and where its state differs from that of the undisturbed run.

    Which one is the last but one depends on when a run saved, so it must be whole, and no more.
    """
    try:
        check_checkpoint(other)
    except ValueError as error:
        yield str(error)
        return
    if one.name != PREVIOUS:
        yield from value_differences(*(_state(path) for path in (one, other)))


def _state(path: Path) -> dict[str, Any]:
    checkpoint = {name: state for name, state in torch.load(path, map_location="cpu").items() if name not in MOMENT}
    if path.name == BEST:  # saved before or behind its validation, of which it and the other callbacks keep notes
        checkpoint.pop("validation_due", None)
        checkpoint["callbacks"] = {name: state for name, state in checkpoint["callbacks"].items() if name == "EMA"}
    return checkpoint


def rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file, each with the cells that are filled and no timing."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{n: v for n, v in row.items() if v and not _is_timing(n)} for row in csv.DictReader(file)]


def value_differences(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Yield the places where two nested values differ; tensors and floats must be equal to the bit."""
    if type(one) is not type(other):
        yield f"{where}: {type(one).__name__} became {type(other).__name__}"
    elif isinstance(one, Mapping):
        for key in dict.fromkeys([*one, *other]):
            if key not in one or key not in other:
                yield f"{where}/{key}: {'left over' if key in other else 'missing'}"
            elif key != UNREAD and not _is_timing(str(key)):
                yield from value_differences(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, Sequence) and not isinstance(one, str | bytes):
        if len(one) != len(other):
            yield f"{where}: {len(one)} entries became {len(other)}"
        for index, pair in enumerate(zip(one, other, strict=False)):
            yield from value_differences(*pair, f"{where}/{index}")
    elif isinstance(one, torch.Tensor):
        if one.dtype != other.dtype or one.shape != other.shape or not torch.equal(_bits(one), _bits(other)):
            yield f"{where}: another tensor"
    elif one != other and not (one != one and other != other):  # two NaN are equal here
        yield f"{where}: {str(one)[:60]} became {str(other)[:60]}"


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor's bytes, in which a NaN equals itself."""
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def _is_timing(name: str) -> bool:
    return name.startswith(TIMINGS)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
