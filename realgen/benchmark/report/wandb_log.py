"""The results in Weights & Biases: summary metrics, a table of scores, a table of images, the files as an artifact."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from realgen.benchmark.report.tables import everyone, score_names
from realgen.benchmark.results import REAL, ImageRow, Results
from realgen.data.image_decoding import upright_rgb

if TYPE_CHECKING:
    from wandb import Run

SHOWN_PROMPTS = 64
"""Prompts in the table of images, evenly spaced; all rows are in ``images.csv``."""
THUMBNAIL = 256
"""Longer side of the pictures in it, in pixels."""


def summary(results: Results) -> dict[str, float]:
    """Every score as ``MODEL/SCORE``, with ``_low`` and ``_high``; checks of detectors as ``MODEL/DETECTOR/CHECK``.

    Returns:
        Names and numbers; what could not be computed is left out.
    """
    found: dict[str, float | None] = {}
    for model in everyone(results):
        for name, score in model.scores.items():
            key = f"{model.name}/{name}"
            found |= {key: score.value, f"{key}_low": score.low, f"{key}_high": score.high}
        for detector, checks in model.checks.items():
            found |= {f"{model.name}/{detector}/{check}": score.value for check, score in checks.items()}
    return {name: value for name, value in found.items() if value is not None}


def image_rows(results: Results, most: int = SHOWN_PROMPTS) -> list[dict[str, ImageRow]]:
    """The rows of some prompts, evenly spaced: for each the real image's and the models', by name."""
    by_prompt: dict[str, dict[str, ImageRow]] = {}
    for row in results.rows:
        by_prompt.setdefault(row.name, {})[row.model] = row
    rows = list(by_prompt.values())
    number = min(most, len(rows))
    return [rows[place * len(rows) // number] for place in range(number)]


def log_results(run: Run, results: Results, folder: Path, files: Iterable[Path]) -> None:
    """Log results to a run."""
    import wandb

    run.summary.update(summary(results))
    names, sets = score_names(results), everyone(results)
    values = [[model.name, *(_value(model.scores, name) for name in names)] for model in sets]
    columns = [REAL, *(model.name for model in results.models)] if results.real else [m.name for m in results.models]
    pictures = wandb.Table(["name", "category", "prompt", *columns, *(f"{c}: scores" for c in columns)])
    for rows in image_rows(results):
        first = next(iter(rows.values()))
        shown = [_picture(rows[column], folder) for column in columns]
        told = [_told(rows[column].values) for column in columns]
        pictures.add_data(first.name, first.category, first.prompt, *(wandb.Image(image) for image in shown), *told)
    run.log({"realbench/scores": wandb.Table(["model", *names], values), "realbench/images": pictures})
    artifact = wandb.Artifact(f"realbench-{run.id}", type="realbench")
    for path in files:
        artifact.add_file(str(path))
    run.log_artifact(artifact)


def _value(scores: Mapping[str, Any], name: str) -> float | None:
    return scores[name].value if name in scores else None


def _told(values: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {'-' if value is None else f'{value:.3f}'}" for name, value in values.items())


def _picture(row: ImageRow, folder: Path) -> Image.Image:
    with Image.open(row.path(folder)) as image:
        picture = upright_rgb(image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return picture
