"""Detector-Scoring: every image scored by detectors and rewards, every model compared with the real images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from realgen.benchmark.inputs.drawing import rewritten_prompt
from realgen.benchmark.inputs.image_sets import BenchmarkPrompt, ImageSet
from realgen.benchmark.inputs.matching import FormatMatching, read_matched
from realgen.benchmark.inputs.prompt_set import categories_of, category_numbers
from realgen.benchmark.results import CHECKS, JUDGED_REAL, REAL, ImageRow, ModelResults, Results
from realgen.checks import check_at_least, check_confidence
from realgen.detectors.base import Detector
from realgen.failures import describe
from realgen.functional.estimate import Estimate, none_if_nan
from realgen.functional.images import from_uint8, to_uint8
from realgen.functional.score_table import ScoreTable
from realgen.metrics import DetectorQuality, DetectorScoring, Diversity, ImageMetric, ImageScores, RealComparison
from realgen.metrics.base import merge_states
from realgen.rewards.base import Reward
from realgen.types import Samples


@dataclass(frozen=True)
class Scorers:
    """Detectors, rewards, metrics by name; ValueError if two have one name, or a metric compares images of a prompt."""

    detectors: Mapping[str, Detector] = field(default_factory=dict)
    """By name; their P(real) and the share called real are scores."""
    rewards: Mapping[str, Reward] = field(default_factory=dict)
    """By name; their mean is a score."""
    metrics: Mapping[str, ImageMetric] = field(default_factory=dict)
    """By name; their value over all images is a score."""

    def __post_init__(self) -> None:
        shares = [f"{name}{JUDGED_REAL}" for name in self.detectors]
        names = [*self.detectors, *shares, *self.rewards, *self.metrics]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"detectors, rewards and metrics must have names of their own, got {twice[0]} twice.")
        for name, metric in self.metrics.items():
            if isinstance(metric, Diversity):
                raise ValueError(f"metrics.{name}: Diversity needs several images of a prompt, here each has one.")

    @property
    def names(self) -> list[str]:
        """Return the names of all detectors, rewards and metrics."""
        return [*self.detectors, *self.rewards, *self.metrics]

    def to(self, device: torch.device | str) -> Scorers:
        """Move what computes; returns self."""
        parts: list[Any] = [*self.detectors.values(), *self.rewards.values()]
        for part in parts:
            part.to(device)
        return self


@dataclass(frozen=True)
class ScoringSettings:
    """How images are read and intervals computed. ValueError if a number is out of its range.

    Args:
        batch_size: Images that are scored at a time, at least 1.
        num_workers: Processes that read images; 0 reads in this one.
        resamples: Bootstrap resamples of each interval, at least 1.
        confidence: Of the intervals, between 0 and 1.
    """

    batch_size: int = 8
    num_workers: int = 0
    resamples: int = 2000
    confidence: float = 0.95

    def __post_init__(self) -> None:
        check_at_least(1, batch_size=self.batch_size, resamples=self.resamples)
        check_at_least(0, num_workers=self.num_workers)
        check_confidence(self.confidence)


class DetectorScoringRun:
    """Scores the real images, then one model after the other, all on the same prompts.

    The scorers are on ``device``. ``matching`` makes files alike; None leaves them as they are. ``advance`` is called
    with the number of images after each batch.
    """

    def __init__(
        self,
        prompts: Sequence[BenchmarkPrompt],
        scorers: Scorers,
        *,
        matching: FormatMatching | None,
        settings: ScoringSettings,
        device: torch.device | str = "cpu",
        advance: Callable[[int], object] = lambda number: None,
    ) -> None:
        self._prompts, self._scorers, self._matching = prompts, scorers, matching
        self._settings, self._device, self._advance = settings, device, advance
        self._categories = categories_of(prompts)
        self._metrics = {name: metric.clone() for name, metric in scorers.metrics.items()}
        self._p_real: dict[str, Tensor] = {}

    def run(self, sets: Sequence[ImageSet], *, real: bool) -> Results:
        """Score images of all prompts, after any real ones to compare with; ValueError if a file cannot be read."""
        real_images, rows = self.real_images() if real else (None, [])
        models = []
        for images in sets:
            model, model_rows = self.model(images)
            models.append(model)
            rows += model_rows
        return Results(tuple(models), real_images, tuple(rows), tuple(self._scorers.detectors))

    def real_images(self) -> tuple[ModelResults, list[ImageRow]]:
        """Score the real images, which the models that follow are compared with; ValueError if a prompt has none."""
        files = [prompt.real_image for prompt in self._prompts if prompt.real_image is not None]
        if len(files) != len(self._prompts):
            raise ValueError(f"real has real images of {len(files)} of the {len(self._prompts)} prompts.")
        comparisons = {name: metric for name, metric in self._metrics.items() if isinstance(metric, RealComparison)}
        averages = self._score_files(files, comparisons, real=True)
        self._p_real = {name: averages[name].seen()[0] for name in self._scorers.detectors}
        real = ModelResults(REAL, *self._scores(averages), images=str(files[0].parent))
        return real, self._rows(REAL, files, averages)

    def model(self, images: ImageSet) -> tuple[ModelResults, list[ImageRow]]:
        """Score the images of one model; ValueError if a metric needs real images and there are none."""
        files = [images.files[prompt.name] for prompt in self._prompts]
        metrics: dict[str, Any] = {name: metric.clone() for name, metric in self._metrics.items()}
        averages = self._score_files(files, metrics)
        scores, categories = self._scores(averages)
        for name, metric in metrics.items():
            value = float(metric.compute())
            scores[name] = Estimate(none_if_nan(value), count=len(files), higher_is_better=metric.higher_is_better)
        checks = {name: self._check(name, averages[name].seen()[0]) for name in self._p_real}
        found = ModelResults(images.name, scores, categories, checks, str(images.folder))
        return found, self._rows(images.name, files, averages)

    def _score_files(
        self, files: Sequence[Path], metrics: Mapping[str, Any], *, real: bool = False
    ) -> dict[str, DetectorScoring | ImageScores]:
        """Score files by detectors and rewards; the metrics see each batch too, as ``real`` images or drawn ones."""
        how: dict[str, Any] = {"resamples": self._settings.resamples, "confidence": self._settings.confidence}
        number = len(self._categories)
        detectors = {name: DetectorScoring(each, number, **how) for name, each in self._scorers.detectors.items()}
        rewards = {name: ImageScores(number, **how) for name in self._scorers.rewards}
        stream = stream_images(
            files,
            self._matching,
            batch_size=self._settings.batch_size,
            num_workers=self._settings.num_workers,
            device=self._device,
        )
        for rows, images in stream:
            for name, scorer in {**detectors, **rewards, **metrics}.items():
                see = partial(self._see, name, scorer, real=real)
                try:
                    see(rows, images)
                except Exception as error:  # a scorer may raise anything
                    by_image = getattr(self._scorers.rewards.get(name), "fails_by_sample", True)
                    alone = by_image and not isinstance(error, MemoryError | torch.OutOfMemoryError)
                    row = _failing(see, rows, images) if alone else None
                    at = f"{len(rows)} images together, the first {files[rows[0]]}" if row is None else files[row]
                    raise ValueError(f"{name} failed at {at}: {describe(error)}") from error
                merge_states(scorer)
            self._advance(len(rows))
        return {**detectors, **rewards}

    def _see(self, name: str, scorer: Any, rows: Sequence[int], images: Tensor, *, real: bool) -> None:
        """Let one detector, reward or metric see the images of these rows."""
        prompts = [self._prompts[row] for row in rows]
        where = {"prompts": torch.tensor(rows), "categories": category_numbers(prompts, self._categories)}
        texts = [prompt.prompt for prompt in prompts]
        if name in self._scorers.detectors:
            scorer.update(images, **where)
        elif name in self._scorers.rewards:
            output = self._scorers.rewards[name](Samples(tuple(texts), 1, images))
            scorer.update(output.total[:, 0], **where)
        elif real:
            scorer.add_real(images)
        else:
            scorer.update(images, prompts=texts)

    def _scores(
        self, averages: Mapping[str, DetectorScoring | ImageScores]
    ) -> tuple[dict[str, Estimate], dict[str, dict[str, Estimate]]]:
        """Return scores over all prompts, and of each category."""
        tables: dict[str, ScoreTable] = {}
        for name, average in averages.items():
            found = average.compute()
            if isinstance(found, ScoreTable):
                tables[name] = found
            else:
                tables |= dict(zip((name, f"{name}{JUDGED_REAL}"), found, strict=True))
        rows = range(1 + len(self._categories))
        groups = [{name: _score(table, row) for name, table in tables.items()} for row in rows]
        return groups[0], dict(zip(self._categories, groups[1:], strict=True))

    def _check(self, name: str, p_real: Tensor) -> dict[str, Estimate]:
        """Measure how well a detector tells a model's images from the real images."""
        quality = DetectorQuality()
        for label, values in enumerate((self._p_real[name], p_real)):
            quality.update(1 - values, torch.full_like(values, label).long(), values.isfinite())
        found = quality.compute()
        count = 2 * len(p_real)
        return {
            key: Estimate(none_if_nan(float(getattr(found, key))), count=count, higher_is_better=higher)
            for key, (_, higher) in CHECKS.items()
        }

    def _rows(
        self, model: str, files: Sequence[Path], averages: Mapping[str, DetectorScoring | ImageScores]
    ) -> list[ImageRow]:
        columns = {name: average.seen()[0].tolist() for name, average in averages.items()}
        return [
            ImageRow(
                prompt.name,
                model,
                prompt.category,
                prompt.prompt,
                str(path.resolve()),
                {name: none_if_nan(values[row]) for name, values in columns.items()},
                rewritten_prompt(path) if model != REAL else "",
            )
            for row, (prompt, path) in enumerate(zip(self._prompts, files, strict=True))
        ]


def stream_images(
    files: Sequence[Path],
    matching: FormatMatching | None,
    *,
    batch_size: int,
    num_workers: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[list[int], Float[Tensor, "batch 3 height width"]]]:
    """Read images, in [0, 1] behind their rows, in order; neighbours of one size come together, at most a batch."""
    numbered: Any = list(enumerate(files))
    loader: DataLoader[Any] = DataLoader(
        numbered,
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=partial(_read_batch, matching),
        generator=torch.Generator(),  # else it would draw from the global one
    )
    for batch in loader:
        for _, group in groupby(batch, key=lambda pair: tuple(pair[1].shape)):
            rows, images = zip(*group, strict=True)
            yield list(rows), from_uint8(torch.stack(images).to(device))


def _read_batch(matching: FormatMatching | None, files: Sequence[tuple[int, Path]]) -> list[tuple[int, Tensor]]:
    """Read image files as bytes, each behind its row, where the loader's processes are."""
    return [(row, to_uint8(read_matched(file, matching))) for row, file in files]


def _failing(see: Callable[[Sequence[int], Tensor], None], rows: Sequence[int], images: Tensor) -> int | None:
    """Return the first row whose image cannot be seen alone; None if no image is to blame."""
    for number, row in enumerate(rows):
        try:
            see([row], images[number : number + 1])
        except Exception:  # the run ends anyway
            return row
    return None


def _score(table: ScoreTable, row: int) -> Estimate:
    # Of one number torchmetrics makes a scalar.
    mean, low, high = (none_if_nan(float(part.reshape(-1)[row])) for part in (table.mean, table.low, table.high))
    return Estimate(mean, low, high, int(table.number.reshape(-1)[row]), higher_is_better=True)
