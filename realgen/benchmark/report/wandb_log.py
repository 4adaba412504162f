"""The results in Weights & Biases: summary metrics, a table of scores, a table of images, the files as an artifact."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from realgen.benchmark.report.tables import everyone, score_names
from realgen.benchmark.results import ImageRow, Results
from realgen.image_decoding import decode_image

if TYPE_CHECKING:
    from wandb import Run

SHOWN_PROMPTS = 64
"""Prompts in the table of images, evenly spaced; all rows are in ``images.csv``."""
THUMBNAIL = 256
"""Longer side of the images in it, in pixels."""


def summary(results: Results) -> dict[str, float]:
    """Return what is known: ``MODEL/SCORE``, with ``_low`` and ``_high``, and checks, ``MODEL/DETECTOR/CHECK``."""
    found: dict[str, float | None] = {}
    for model in everyone(results):
        for name, score in model.scores.items():
            key = f"{model.name}/{name}"
            found |= {key: score.value, f"{key}_low": score.low, f"{key}_high": score.high}
        for detector, checks in model.checks.items():
            found |= {f"{model.name}/{detector}/{check}": score.value for check, score in checks.items()}
    return {name: value for name, value in found.items() if value is not None}


def image_rows(results: Results, most: int = SHOWN_PROMPTS) -> list[dict[str, ImageRow]]:
    """Return the rows of some prompts, evenly spaced: for each the real image's and the models', by name."""
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
    values = [[model.name, *(getattr(model.scores.get(name), "value", None) for name in names)] for model in sets]
    columns = [model.name for model in sets]
    images = wandb.Table(["name", "category", "prompt", *columns, *(f"{c}: scores" for c in columns)])
    for rows in image_rows(results):
        first = next(iter(rows.values()))
        thumbnails = [_thumbnail(rows[column].path(folder)) for column in columns]
        shown = [wandb.Image(image, caption=problem) for image, problem in thumbnails]
        scored = [rows[column].values.items() for column in columns]
        texts = [", ".join(f"{name} {'-' if x is None else f'{x:.3f}'}" for name, x in each) for each in scored]
        images.add_data(first.name, first.category, first.prompt, *shown, *texts)
    run.log({"realbench/scores": wandb.Table(["model", *names], values), "realbench/images": images})
    artifact = wandb.Artifact(f"realbench-{run.id}", type="realbench")
    for path in files:
        artifact.add_file(str(path))
    run.log_artifact(artifact)


def _thumbnail(path: Path) -> tuple[Image.Image, str | None]:
    """Return an image made small and None; a grey square and the reason if its file cannot be read any more."""
    try:
        small = decode_image(path)
    except ValueError as error:
        return Image.new("RGB", (THUMBNAIL, THUMBNAIL), "grey"), f"{path}: {error}"
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return small, None
