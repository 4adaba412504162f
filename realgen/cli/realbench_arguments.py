"""What a config of ``realgen.realbench`` may hold, and what its command line adds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from lightning.pytorch.loggers import Logger

from realgen.benchmark.arena.arena import Arena
from realgen.benchmark.detector_scoring import ScoringSettings
from realgen.benchmark.inputs.image_sets import model_name
from realgen.benchmark.inputs.matching import FormatMatching
from realgen.benchmark.realbench import PromptSplit
from realgen.cli.config_error import ConfigError
from realgen.cli.plain_config import Argument
from realgen.detectors import Detector
from realgen.metrics import ImageMetric
from realgen.policies import Policy
from realgen.rewards import Reward

PASSING = ("part", "run_dir", "output_dir", "dry_run", "device", "draw_batch_size", "loggers")
"""Keys that may change from one start of a run to the next: where and how it computes, not what."""
NAMED = 3
"""Changes that a message names."""


def realbench_arguments() -> dict[str, Argument]:
    """The keys at the top of a config."""
    return {
        "prompts": Argument(str | None, None, "Folder in RealBench's layout, or a file of prompts (.txt, .json)."),
        "real": Argument(str | None, None, "Folder of photographs; by default the one in the folder of the prompts."),
        "categories": Argument(str | None, None, "JSON file: first and last line of each category of prompts."),
        "length": Argument(Literal["short", "long"] | None, None, "Which prompts of a folder: short (default), long."),
        "num_prompts": Argument(int | None, None, "Only so many prompts, evenly spaced."),
        "policies": Argument(dict[str, Policy | None], {}, "Policies whose images are drawn, by name; null drops one."),
        "images": Argument(dict[str, str | None], {}, "Folders of images made by anything, by name."),
        "allow_missing": Argument(bool, False, "Leave prompts out of which a folder has no image, for all models."),
        "detectors": Argument(dict[str, Detector | None], {}, "Detectors by name; null drops one."),
        "rewards": Argument(dict[str, Reward | None], {}, "Rewards by name; null drops one."),
        "metrics": Argument(dict[str, ImageMetric | None], {}, "Metrics over all images, by name; null drops one."),
        "arena": Argument(Arena | None, None, "Who compares the images pair by pair: a judge and its protocol."),
        "dry_run": Argument(bool, False, "Only say what would be drawn, judged and asked; --dry-run for short."),
        "matching": Argument(FormatMatching | None, None, "How file formats are made alike; null leaves them."),
        "scoring": Argument(ScoringSettings, ScoringSettings(), "How images are read and intervals computed."),
        "draw_batch_size": Argument(int, 8, "Images that a policy draws at a time."),
        "part": Argument(
            str | None, None, "K/N draws every N-th prompt from the K-th on and judges nothing: one process per GPU."
        ),
        "seed": Argument(int, 0, "Of the drawn images."),
        "device": Argument(str, "auto", "Where it computes; auto is a GPU if there is one."),
        "loggers": Argument(dict[str, Logger | None], {}, "Loggers by name, as realgen.fit has them; null drops one."),
        "run_dir": Argument(str | None, None, "Folder of the run; one that has images goes on."),
        "output_dir": Argument(str, "runs", "Where the folders of runs are made."),
    }


def gather_images(argv: Sequence[str]) -> list[str]:
    """Put ``--images DIR --images NAME=DIR ...`` into one ``--images={...}``, and let nothing be drawn beside it.

    ``--dry-run`` becomes ``--dry_run=true``.

    Args:
        argv: Arguments without the program.

    Returns:
        Arguments with one value per key; those that hold a whole mapping already are left alone.

    Raises:
        ConfigError: If two folders have one name, or a value is missing.

    Example:
        >>> gather_images(["--images", "out/flux", "--images=new=out/1"])[0]
        '--policies={}'
        >>> gather_images(["--images", "out/flux", "--images=new=out/1"])[1]
        '--images={"flux": "out/flux", "new": "out/1"}'
    """
    others: list[str] = []
    folders: dict[str, str] = {}
    arguments = iter(argv)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument == "--dry-run":
            argument = "--dry_run=true"
        if key != "--images" or value.startswith("{") or value == "null":
            others.append(argument)
            continue
        value = value if equals else next(arguments, "")
        if not value or value.startswith("--"):
            raise ConfigError("--images needs a value: --images DIR, or --images NAME=DIR")
        name, named, folder = value.partition("=")
        name, folder = (name, folder) if named else (model_name(value), value)
        if name in folders:
            raise ConfigError(f"--images: {folders[name]} and {folder} are both called {name}. Give names: NAME=DIR")
        folders[name] = folder
    given = ["--policies={}", f"--images={json.dumps(folders)}"] if folders else []
    # Behind the config files, which they override, and before what else the command line says.
    ends = [i + 1 + ("=" not in a) for i, a in enumerate(others) if a.partition("=")[0] in ("-c", "--config")]
    place = max(ends, default=0)
    return [*others[:place], *given, *others[place:]]


def read_split(config: Mapping[str, Any]) -> PromptSplit | None:
    """Which prompts this process draws; None where all are drawn and judged.

    Args:
        config: Complete.

    Returns:
        The part.

    Raises:
        ConfigError: If ``part`` is not K/N with K from 1 to N, or the folder that all parts share is not given.
        ConfigError: If that folder is of another config: all parts must come of one.

    Example:
        >>> read_split({"part": "2/8", "run_dir": "runs/shared"})
        PromptSplit(number=2, parts=8)
        >>> read_split({"part": "9/8", "run_dir": "runs/shared"})
        Traceback (most recent call last):
        ...
        realgen.cli.config_error.ConfigError: part must be 1/8 to 8/8, got 9/8.
    """
    if config["part"] is None:
        return None
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", config["part"])
    if found is None:
        raise ConfigError(f"part must be K/N, such as 1/8, got {config['part']!r}.")
    try:
        part = PromptSplit(int(found[1]), int(found[2]))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if config["run_dir"] is None:
        raise ConfigError("part: give the folder that all parts draw into: --run_dir=FOLDER")
    changes = config_changes(Path(config["run_dir"], "config.yaml"), config)
    if changes:
        raise ConfigError(f"part: {config['run_dir']} is of another config: {changes}. Choose another --run_dir.")
    return part


def config_changes(path: Path, config: Mapping[str, Any]) -> str:
    """How a config differs from that which a folder was begun with; ``PASSING`` keys do not count.

    Args:
        path: Of the config that was written there; it need not exist.
        config: Complete.

    Returns:
        The first differences for the user to read; empty if there are none.

    Raises:
        ConfigError: If the file cannot be read.
    """
    if not path.exists():
        return ""
    try:
        before = _leaves(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        cause = str(error).splitlines()[0]
        raise ConfigError(f"run_dir: cannot read {path} ({cause}). Choose another --run_dir, or delete it.") from error
    now = _leaves(config)
    changes = [
        f"{key.replace('.init_args', '')} was {_told(before, key)}, now it is {_told(now, key)}"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key) and key.partition(".")[0] not in PASSING
    ]
    more = f"; and {len(changes) - NAMED} more" if len(changes) > NAMED else ""
    return "; ".join(changes[:NAMED]) + more


def _leaves(value: Any, key: str = "") -> dict[str, Any]:
    """Values by dotted key; what is null or empty counts as not set."""
    if not isinstance(value, dict):
        return {} if value is None else {key: value}
    parts = (_leaves(child, f"{key}.{name}".removeprefix(".")) for name, child in value.items())
    return {name: leaf for part in parts for name, leaf in part.items()}


def _told(leaves: Mapping[str, Any], key: str) -> str:
    return json.dumps(leaves[key]) if key in leaves else "not set"
