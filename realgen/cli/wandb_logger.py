"""Settings of the Weights & Biases loggers of a config that depend on the run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger


def fill_wandb_arguments(loggers: Mapping[str, Any], values: Mapping[str, str]) -> None:
    """Fill in, in place, what a config leaves open, and silence Weights & Biases while all of it is written to disk.

    Online it prints the address of the run. Its errors are exceptions, and are still raised.

    Args:
        loggers: ``class_path`` and ``init_args`` of each logger by name, or None.
        values: What an argument becomes that is null or the current folder.
    """
    chosen = [
        spec["init_args"]
        for spec in loggers.values()
        if spec is not None and spec["class_path"].rpartition(".")[2] == WandbLogger.__name__
    ]
    for arguments in chosen:
        for name, value in values.items():
            if arguments[name] in (None, "."):
                arguments[name] = value
    if all(arguments["offline"] for arguments in chosen):
        os.environ.setdefault("WANDB_SILENT", "true")


def drop_anonymous(loggers: Iterable[Logger]) -> None:
    """Keep Lightning from passing ``anonymous`` to ``wandb.init``, which warns about it whatever its value.

    Args:
        loggers: Of them, those of Weights & Biases that have not begun their run are changed.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger) and logger._wandb_init.get("anonymous") is None:
            logger._wandb_init.pop("anonymous", None)
