"""Folders as training runs leave them, with numbers made by hand."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

Cell = float | None


def write_run(
    folder: Path,
    validations: Mapping[int, Mapping[str, Sequence[Cell]]],
    *,
    seed: int = 0,
    lr: float = 1e-3,
    images: int = 100,
    seconds: float = 10.0,
    whole: Mapping[int, Mapping[str, float]] | None = None,
    prompts: Sequence[str] = ("a cat", "a dog", "the sea", "a red fox"),
    metrics: Mapping[str, Any] | None = None,
    **config: Any,
) -> Path:
    """Write ``config.yaml``, ``validation.csv`` and the CSV log.

    Args:
        folder: Of the run.
        validations: By iteration, then measure: one value per prompt, None where it could not be judged.
        seed: Of training.
        lr: A setting, in ``init_args``.
        images: Drawn per iteration.
        seconds: Per iteration.
        whole: By iteration, then name: measures of all images together.
        prompts: The validation prompts.
        metrics: Of the config, by name.
        **config: More of the config.
    """
    folder.mkdir(parents=True)
    arguments = {"optimizer": {"lr": lr}, "seed": seed, "metrics": metrics}
    model = {"class_path": "realgen.modules.GRPOModule", "init_args": arguments}
    settings = {
        "seed_everything": seed,
        "model": model,
        "run_dir": str(folder),
        "loggers": {"x": folder.name},
        **config,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    rows = [
        {
            "iteration": iteration, "images": iteration * images, "seconds": iteration * seconds,
            "key": f"{number:03d}", "sample": 0, "seed": 1000 + number, "prompt": prompt,
            **{name: "" if values[number] is None else values[number] for name, values in measures.items()},
        }
        for iteration, measures in validations.items()
        for number, prompt in enumerate(prompts)
    ]  # fmt: skip
    with (folder / "validation.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    if whole is not None:
        log = folder / "csv" / "version_0" / "metrics.csv"
        log.parent.mkdir(parents=True)
        names = list(next(iter(whole.values())))
        lines = [f"epoch,reward,step,{','.join(f'val/{name}' for name in names)}", f"0,0.5,1,{',' * (len(names) - 1)}"]
        lines += [f"0,,{i},{','.join(str(values[name]) for name in names)}" for i, values in whole.items()]
        log.write_text("\n".join(lines) + "\n")
    return folder
