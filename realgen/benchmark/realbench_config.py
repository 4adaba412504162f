"""What a config of ``realgen.realbench`` may hold, and how it may differ from one start of a run to the next."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from lightning.pytorch.loggers import Logger

from realgen.benchmark.arena.arena import Arena
from realgen.benchmark.blind_spots import BlindSpots
from realgen.benchmark.detector_scoring import ScoringSettings
from realgen.benchmark.inputs.matching import FormatMatching
from realgen.checks import first_line
from realgen.data.generated_images import settings_changes
from realgen.detectors import Detector
from realgen.given_files import config_head
from realgen.metrics import ImageMetric
from realgen.policies import Policy
from realgen.rewards import Reward
from realgen.whole_files import write_whole

PASSING = ("part", "run_dir", "output_dir", "dry_run", "device", "draw_batch_size", "loggers")
"""Keys that may change from one start of a run to the next: where and how it computes, not what."""


def realbench_arguments() -> dict[str, tuple[Any, Any, str]]:
    """Return the keys at the top of a config: type, default and help of each."""
    return {
        "prompts": (str | None, None, "Folder in RealBench's layout, or a file of prompts (.txt, .json)."),
        "real": (str | None, None, "Folder of real images; by default the one in the folder of the prompts."),
        "categories": (str | None, None, "JSON file: first and last line of each category of prompts."),
        "length": (Literal["short", "long"] | None, None, "Which prompts of a folder: short (default), long."),
        "num_prompts": (int | None, None, "Only so many prompts, evenly spaced."),
        "policies": (dict[str, Policy | None], {}, "Policies whose images are drawn, by name; null drops one."),
        "images": (dict[str, str | None], {}, "Folders of images made by anything, by name."),
        "allow_missing": (bool, False, "Leave prompts out of which a folder has no image, for all models."),
        "detectors": (dict[str, Detector | None], {}, "Detectors by name; null drops one."),
        "rewards": (dict[str, Reward | None], {}, "Rewards by name; null drops one."),
        "metrics": (dict[str, ImageMetric | None], {}, "Metrics over all images, by name; null drops one."),
        "arena": (Arena | None, None, "Who compares the images pair by pair: a judge and its protocol."),
        "dry_run": (bool, False, "Only say what would be drawn, scored and asked; --dry-run for short."),
        "blind_spots": (BlindSpots | None, None, "Report what the detectors are blind to instead; needs no prompts."),
        "matching": (FormatMatching | None, None, "How file formats are made alike; null leaves them."),
        "scoring": (ScoringSettings, ScoringSettings(), "How images are read and intervals computed."),
        "draw_batch_size": (int, 8, "Images that a policy draws at a time."),
        "part": (
            str | None,
            None,
            "K/N draws every N-th prompt from the K-th on, scores nothing: one process per GPU.",
        ),
        "seed": (int, 0, "Of the drawn images."),
        "device": (str, "auto", "Where it computes; auto is a GPU if there is one."),
        "loggers": (dict[str, Logger | None], {}, "Loggers by name, as realgen.fit has them; null drops one."),
        "run_dir": (str | None, None, "Folder of the run; one that has images goes on."),
        "output_dir": (str, "runs", "Where the folders of runs are made."),
    }


def read_split(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Read which part of how many this process draws, from 1; None where all are drawn and scored.

    Raises:
        ValueError: If ``part`` is not K/N with K from 1 to N, or the folder that all parts share is not given, or of
            another config.
    """
    if config["part"] is None:
        return None
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", config["part"])
    if found is None:
        raise ValueError(f"part must be K/N, such as 1/8, got {config['part']!r}.")
    number, parts = map(int, found.groups())
    if number > parts:
        raise ValueError(f"part must be 1/{parts} to {parts}/{parts}, got {config['part']}.")
    if config["run_dir"] is None:
        raise ValueError("part: give the folder that all parts draw into: --run_dir=FOLDER")
    changes = config_changes(Path(config["run_dir"], "config.yaml"), config)
    if changes:
        raise ValueError(f"part: {config['run_dir']} is of another config: {changes}. Choose another --run_dir.")
    return number, parts


def config_changes(path: Path, config: Mapping[str, Any]) -> str:
    """Describe how a config differs from the one, if any, that a folder was begun with, but for ``PASSING`` keys."""
    if not path.exists():
        return ""
    try:
        before = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise ValueError("no mapping")
    except (OSError, ValueError, yaml.YAMLError) as error:
        cause = first_line(error)
        raise ValueError(f"run_dir: cannot read {path} ({cause}). Choose another --run_dir, or delete it.") from error
    return settings_changes(*({key: each[key] for key in each if key not in PASSING} for each in (before, config)))


def keep_config(config: Mapping[str, Any], folder: Path, *, command: str) -> None:
    """Write a folder's config, under the run's first command; what is there stays unless another, which is told."""
    path = folder / "config.yaml"
    changes = config_changes(path, config)
    if path.exists() and not changes:
        return
    if changes:
        sys.stderr.write(f"note: {folder} was of another config, its results are replaced: {changes}\n")
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump({**config, "run_dir": None, "part": None}, sort_keys=False, allow_unicode=True)
    write_whole(path, f"{config_head(command)}{text}".encode())
