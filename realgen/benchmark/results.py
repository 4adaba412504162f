"""What a benchmark leaves behind: scores with intervals, a row per image, and their files."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from realgen.benchmark.arena.result import ArenaResult
from realgen.functional.estimate import Estimate
from realgen.given_files import parse_json
from realgen.tables import csv_bytes, read_csv

RESULTS_FILE, IMAGES_FILE = "results.json", "images.csv"
REAL = "real"
"""Name of the real images where they stand beside the models."""
JUDGED_REAL = "_judged_real"
"""What follows a detector's name where the score is the share of images called real."""
CHECKS = {
    "auroc": ("AUROC", True),
    "accuracy": ("accuracy", True),
    "real_accuracy": ("accuracy on real images", True),
    "fake_accuracy": ("accuracy on generated images", True),
    "calibration_error": ("calibration error", False),
    "brier": ("Brier score", False),
}
"""Numbers of ``DetectorQuality`` that each detector has on each model: heading, and whether higher is better."""
_COLUMNS = ("name", "model", "category", "prompt", "file", "rewritten")


@dataclass(frozen=True)
class ModelResults:
    """All scores of one model's images, or of the real images."""

    name: str
    """As the table calls it; ``real`` for the real images."""
    scores: Mapping[str, Estimate]
    """Over all images, by name."""
    categories: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    """The same for each category of prompts; names of categories, then of scores."""
    checks: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    """How well each detector tells these images from the real images: by detector, then by name in ``CHECKS``; empty
    for the real images."""
    images: str = ""
    """Folder that the images lie in."""
    digest: str = ""
    """Of the files that were scored, their names and content; empty where it is not known."""


@dataclass(frozen=True)
class ImageRow:
    """What was measured on one image."""

    name: str
    """Stem of its file, the same for all images of one prompt."""
    model: str
    """Whose image it is; ``real`` for a real image."""
    category: str
    """Of the prompt; empty where the prompts have none."""
    prompt: str
    """As the user wrote it."""
    file: str
    """Where the image lies: inside the run's folder a path relative to it, elsewhere an absolute one."""
    values: Mapping[str, float | None] = field(default_factory=dict)
    """P(real) in [0, 1] by each detector, and each reward, by name; None where it could not be scored."""
    rewritten: str = ""
    """The text that the image model read, where a language model had rewritten the prompt."""

    def path(self, folder: Path) -> Path:
        """Return the image's file, of a run in ``folder``."""
        return folder / self.file


@dataclass(frozen=True)
class Results:
    """Everything that one run of the benchmark found."""

    models: tuple[ModelResults, ...]
    """In the order in which they were named."""
    real: ModelResults | None = None
    """The real images, scored alike; None where there were none."""
    rows: tuple[ImageRow, ...] = ()
    """One per image, those of the real images first."""
    detectors: tuple[str, ...] = ()
    """Names of the scores and values that are detectors' answers: mean P(real) x 100 and P(real)."""
    arena: ArenaResult | None = None
    """What Arena-Scoring found."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """``command``, ``config``, ``versions``, ``time``, ``seconds``, ``seed``, ``matching`` of the file formats."""

    def map_models(self, change: Callable[[ModelResults], ModelResults]) -> Results:
        """Return the results with each model, and the real images, changed."""
        real = None if self.real is None else change(self.real)
        return replace(self, real=real, models=tuple(map(change, self.models)))


def with_digests(results: Results, folder: Path) -> Results:
    """Add the ``digest`` of each model's images; read every file once, and raise OSError if one cannot be read."""
    found = {}
    for model in {row.model for row in results.rows}:
        digest = hashlib.blake2b(digest_size=16)
        for row in sorted((row for row in results.rows if row.model == model), key=lambda row: row.name):
            with row.path(folder).open("rb") as file:
                content = hashlib.file_digest(file, "blake2b").hexdigest()
            digest.update(f"{row.name} {content}\n".encode(errors="surrogateescape"))
        found[model] = digest.hexdigest()

    return results.map_models(lambda model: replace(model, digest=found.get(model.name, "")))


def write_results(results: Results, folder: Path) -> None:
    """Write ``results.json`` and ``images.csv`` into a folder, which is made if it does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {key: value for key, value in asdict(results).items() if key != "rows"}
    text = json.dumps(_without_nan(kept), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / RESULTS_FILE).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    write_rows(results.rows, folder / IMAGES_FILE)


def read_results(folder: Path) -> Results:
    """Read what ``write_results`` wrote; ValueError if a file is missing or is something else."""
    path = folder / RESULTS_FILE
    try:
        try:
            found = replace(_rebuild(Results, parse_json(path.read_bytes())))
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is no results file of this version of the benchmark ({error}). If an earlier version wrote "
                "it, run realgen.realbench again with this run_dir: its images and answers are kept."
            ) from error
        return replace(found, rows=read_rows(folder / IMAGES_FILE))
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be read: {error.strerror}.") from error


def write_rows(rows: Sequence[ImageRow], path: Path) -> None:
    """Write one line per image: what it is, then a column per value; an empty one was not scored."""
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    cells = ([*(getattr(row, column) for column in _COLUMNS), *map(row.values.get, names)] for row in rows)
    path.write_bytes(csv_bytes([[*_COLUMNS, *names], *cells]))


def read_rows(path: Path) -> tuple[ImageRow, ...]:
    """Read what ``write_rows`` wrote; every row has all columns. Raise ValueError if the file has others."""
    header, lines = read_csv(path)
    if tuple(header[: len(_COLUMNS)]) != _COLUMNS:
        raise ValueError(f"{path} must begin with the columns {', '.join(_COLUMNS)}, got {', '.join(header)}.")
    rows = []
    for line in lines:
        values = {key: float(line[key]) if line[key] else None for key in header[len(_COLUMNS) :]}
        rows.append(ImageRow(**{column: line[column] for column in _COLUMNS}, values=values))
    return tuple(rows)


def _rebuild(kind: Any, value: Any) -> Any:
    """Return the value that ``dataclasses.asdict`` and JSON made plain, as the annotated type again."""
    if value is None:
        return None
    inner = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return _rebuild(next(each for each in inner if each is not type(None)), value)
    if get_origin(kind) is tuple:
        return tuple(_rebuild(inner[0], child) for child in value)
    if get_origin(kind) is Mapping:
        return {name: _rebuild(inner[1], child) for name, child in value.items()}
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return value
    hints = get_type_hints(kind)
    unknown = sorted(value.keys() - hints.keys())
    if unknown:
        raise TypeError(f"{kind.__name__} has no field {unknown[0]!r}")
    return kind(**{name: _rebuild(hints[name], child) for name, child in value.items()})


def _without_nan(value: Any) -> Any:
    """Return the value with null for NaN and infinity, which JSON does not know."""
    if isinstance(value, Mapping):
        return {key: _without_nan(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
