"""What training runs and benchmark runs have measured on each image, read from their folders."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from realgen.benchmark.results import RESULTS_FILE, ModelResults, read_results
from realgen.data.generated_images import SETTINGS_FILE
from realgen.failures import describe
from realgen.given_files import read_json
from realgen.tables import complete_rows, read_csv

CONFIG_FILE, ROWS_FILE = "config.yaml", "validation.csv"
_PLACE = ("iteration", "images", "seconds", "key", "sample", "seed", "prompt")
_ASIDE = (
    *("seed_everything", "seed", "loggers", "run_dir", "output_dir", "trainer.default_root_dir"),
    *("trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "trainer.check_val_every_n_epoch"),
)
"""The run's own seed, and settings that change nothing of what is measured at equal price: a run may go on longer."""

_VERSION = "realgen"  # setting that holds the version of this package


class ImageKey(NamedTuple):
    """Which image: the same four are the same prompt on the same noise."""

    key: str
    prompt: str
    sample: int = 0
    seed: int = 0


@dataclass(frozen=True)
class ValidationPoint:
    """What was measured at one validation."""

    iteration: int | float
    """Whole, but where two validations are interpolated."""
    images: int
    """Drawn in training up to here."""
    seconds: float
    """Of training up to here."""
    values: Mapping[str, Mapping[ImageKey, float]]
    """By metric, then by image; higher is better. Without what could not be scored."""
    corpus: Mapping[str, float]
    """Metrics of all images together, which have no value for one of them (KID, diversity ...)."""


@dataclass(frozen=True)
class RecordedRun:
    """One training run, or one model of a benchmark run."""

    name: str
    """Its folder; of a benchmark run with the model's name behind it."""
    kind: Literal["run", "benchmark", "validation"]
    """``validation`` is one moment of a training run."""
    seed: int | None
    """Of training, or of the images that a benchmark drew; None where it is not known, or images were given."""
    settings: Mapping[str, Any]
    """Its config by dotted key, without the seed above and without where it was written; the version of this package;
    and of a benchmark what the config does not tell: which weights drew the images, or which files were given."""
    points: tuple[ValidationPoint, ...]
    """In the order of iterations; a benchmark run has one."""
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)
    """Of the metrics of all images together, where it is known."""
    numbers: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """Of a training run's log, by name and iteration."""

    @property
    def folder(self) -> Path:
        """The folder of a training run."""
        return Path(self.name)

    def names(self, *, rewarded: bool) -> list[str]:
        """Return the rewards on held-out prompts, or the measures that no reward sees."""
        found = {name.removeprefix("val/") for name in self.numbers if name.startswith("val/")}
        found.update(name for point in self.points for name in point.values)
        return sorted(name for name in found if (name.partition("/")[0] == "reward") == rewarded)


def read_runs(folder: Path) -> list[RecordedRun]:
    """Read what a folder holds: a training run, all models of a benchmark run, or folders of training runs.

    Runs may lie one or two levels below; of those, the ones that were validated are read.

    Raises:
        ValueError: If it is neither, or lacks the rows of its images.
    """
    if (folder / RESULTS_FILE).is_file():
        return _benchmark_runs(folder)
    if not (folder / CONFIG_FILE).is_file():
        for level in ("*", "*/*"):
            if inside := sorted(path.parent for path in folder.glob(f"{level}/{ROWS_FILE}")):
                return [training_run(each) for each in inside]
        what = "has neither" if folder.is_dir() else "is no folder with"
        raise ValueError(
            f"{folder} {what} {CONFIG_FILE} (a run of realgen.fit) nor {RESULTS_FILE} (one of realgen.realbench)."
        )
    if not (folder / ROWS_FILE).is_file():
        raise ValueError(
            f"{folder} has no {ROWS_FILE}: it was not validated yet, or without the callback "
            "realgen.callbacks.ValidationRows."
        )
    return [training_run(folder)]


def training_run(folder: Path) -> RecordedRun:
    """Read a training run, ended or not, without points before its first validation; ValueError if a file is broken."""
    config, version = _read_config(folder / CONFIG_FILE)
    seed = config.get("seed_everything")
    settings = {**_settings(config), **version}
    known = seed if isinstance(seed, int) else None
    numbers = log_numbers(folder)
    points = _validation_points(folder / ROWS_FILE, numbers) if (folder / ROWS_FILE).is_file() else ()
    return RecordedRun(str(folder), "run", known, settings, points, _directions(settings), numbers)


def _read_config(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read the config, and the version of this package that wrote it, where its first line has it."""
    try:
        text = path.read_text(encoding="utf-8")
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a mapping of settings, got {type(config).__name__}.")
    header = re.match(r"# realgen (\S+):", text)
    return config, {} if header is None else {_VERSION: header[1]}


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaves of a config by dotted key, ``init_args`` left out, without what tells no two settings apart.

    Null counts as absent: a setting that was added between two runs begins as null. Seeds of parts stay: whether one
    follows the run's own is seen beside other runs only.
    """
    leaves = dict(_leaves(config))
    found = {}
    for key, value in leaves.items():  # an older run holds the value where a newer one refers to it, by ${key}
        reference = re.fullmatch(r"\$\{([\w.]+)\}", str(value))
        found[key] = leaves.get(reference[1].replace(".init_args", ""), value) if reference else value
    return {
        key: value
        for key, value in found.items()
        if value is not None and not any(key == name or key.startswith(f"{name}.") for name in _ASIDE)
    }


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, child in value.items():
            yield from _leaves(child, key if name == "init_args" else f"{key}.{name}".lstrip("."))
    else:
        yield key, value


def _directions(settings: Mapping[str, Any]) -> dict[str, bool]:
    """Return whether higher is better, of the metrics of this package that a config names."""
    from realgen import metrics  # torchmetrics takes a second to import

    found: dict[str, bool] = {}
    for key, value in settings.items():
        name = re.fullmatch(r"model\.metrics\.([^.]+)\.class_path", key)
        if name is not None and str(value).startswith("realgen.metrics."):
            higher = getattr(getattr(metrics, value.rpartition(".")[2], None), "higher_is_better", None)
            found |= {} if higher is None else {name[1]: bool(higher)}
    return found


def _validation_points(path: Path, numbers: Mapping[str, Mapping[int, float]]) -> tuple[ValidationPoint, ...]:
    whole = {name[4:]: measured for name, measured in numbers.items() if name.startswith("val/")}
    stat = path.stat()
    places, values = _read_rows(path, (stat.st_mtime_ns, stat.st_size, stat.st_ino))
    points = []
    for iteration, (images, seconds) in sorted(places.items()):
        by_image = values.get(iteration, {})
        others = {n: found[iteration] for n, found in whole.items() if iteration in found and n not in by_image}
        points.append(ValidationPoint(iteration, images, seconds, by_image, others))
    return tuple(points)


@lru_cache(maxsize=64)
def _read_rows(
    path: Path, changed: tuple[int, ...]
) -> tuple[dict[int, tuple[int, float]], dict[int, dict[str, dict[ImageKey, float]]]]:
    """Read images, seconds and values by iteration, once in a process until ``changed`` is another."""
    places: dict[int, tuple[int, float]] = {}
    values: dict[int, dict[str, dict[ImageKey, float]]] = {}
    header, rows = read_csv(path)
    if missing := [name for name in _PLACE if name not in header]:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}.")
    for row in rows:
        iteration = int(row["iteration"])
        places[iteration] = (int(row["images"]), float(row["seconds"]))
        image = ImageKey(row["key"], row["prompt"], int(row["sample"]), int(row["seed"]))
        for name, cell in row.items():
            if name not in _PLACE and cell and math.isfinite(float(cell)):
                values.setdefault(iteration, {}).setdefault(name, {})[image] = float(cell)
    if not places:
        raise ValueError(f"{path} holds no validation.")
    return places, values


def log_numbers(folder: Path) -> dict[str, dict[int, float]]:
    """Read the finite numbers of a run's CSV log, by name and iteration; older runs have one log for each start.

    Of the same name and iteration the newest counts; a copy with more in its folder's name is left out.

    Raises:
        ValueError: If a file is no such log.
    """
    found: dict[str, dict[int, float]] = {}
    logs = [path for path in folder.glob("csv/version_*/metrics.csv") if path.parent.name[8:].isdecimal()]
    for path in sorted(logs, key=lambda path: int(path.parent.name[8:])):
        try:
            for row in complete_rows(path):
                iteration = int(float(row.get("iteration") or row["step"]))
                for name, cell in row.items():
                    if cell and math.isfinite(float(cell)):
                        found.setdefault(name, {})[iteration] = float(cell)
        except (KeyError, ValueError, OverflowError) as error:
            raise ValueError(f"{path} is no log of numbers: {describe(error)}.") from error
    return {name: dict(sorted(numbers.items())) for name, numbers in found.items()}


def _benchmark_runs(folder: Path) -> list[RecordedRun]:
    results = read_results(folder)
    config, seed = results.settings.get("config"), results.settings.get("seed")
    # Without a config nothing tells its settings from another's, so it is like no other.
    settings = _settings(config) if isinstance(config, dict) else {"config": f"unknown, of {folder}"}
    version = results.settings.get("versions", {}).get("realgen")
    settings |= {} if version is None else {_VERSION: version}
    settings |= {"real images": results.real.digest} if results.real is not None and results.real.digest else {}
    runs = []
    for model in results.models:
        values: dict[str, dict[ImageKey, float]] = {}
        for row in results.rows:
            for name, value in row.values.items() if row.model == model.name else ():
                if value is not None:
                    values.setdefault(name, {})[ImageKey(row.name, row.prompt)] = value
        whole = {name: score.value for name, score in model.scores.items() if score.value is not None}
        others = {name: value for name, value in whole.items() if name not in values}
        point = ValidationPoint(0, 0, 0.0, values, others)
        name = f"{folder}:{model.name}"
        known = seed if isinstance(seed, int) and _is_drawn(model) else None
        settings_of_model = {"model": model.name, **settings, **_origin(folder, model)}
        higher = {key: score.higher_is_better for key, score in model.scores.items()}
        directions = {key: value for key, value in higher.items() if value is not None}
        runs.append(RecordedRun(name, "benchmark", known, settings_of_model, (point,), directions))
    if not runs:
        raise ValueError(f"{folder / RESULTS_FILE} holds no model.")
    return runs


def _is_drawn(model: ModelResults) -> bool:
    """Return whether the benchmark drew the images; given ones lie elsewhere, and do not depend on its seed."""
    return not Path(model.images).is_absolute()


def _origin(folder: Path, model: ModelResults) -> dict[str, str]:
    """Return what the config does not hold of a model's images: the content of the adapters, or of the files given."""
    if not _is_drawn(model):
        return {"images": model.digest} if model.digest else {}
    path = folder / model.images / SETTINGS_FILE
    if not path.is_file():
        return {}
    adapters = read_json(path).get("adapters", {})
    return {f"adapters of {place}": digest for place, digest in adapters.items()}
