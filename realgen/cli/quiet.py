"""Keeps the screen for what a user asked for; warnings and errors stay."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

_LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed")
_CHATTER = ("Seed set to", "GPU available: False", "TPU available: False", "\N{ELECTRIC LIGHT BULB} Tip")


def quiet_lightning() -> None:
    """Drop Lightning's lines about devices that are not there, its advertisements, and a warning about its own code."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_is_no_chatter)
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")


def quiet_wandb(loggers: Iterable[Any]) -> None:
    """Silence Weights & Biases while it writes to disk only; online it shows the address of the run.

    Its errors are exceptions, and come through.

    Args:
        loggers: The arguments of each Weights & Biases logger.
    """
    if all(arguments["offline"] for arguments in loggers):
        os.environ.setdefault("WANDB_SILENT", "true")


def drop_anonymous(loggers: Iterable[Logger]) -> None:
    """Keep Lightning from naming ``anonymous`` to ``wandb.init``, which warns of it whatever its value.

    Args:
        loggers: Of them, those of Weights & Biases that have not begun their run.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger) and logger._wandb_init.get("anonymous") is None:
            logger._wandb_init.pop("anonymous", None)


def _is_no_chatter(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_CHATTER)
