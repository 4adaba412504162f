"""Keeps the screen for what a user asked for; warnings and errors stay."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable
from typing import Any

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


def _is_no_chatter(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_CHATTER)
