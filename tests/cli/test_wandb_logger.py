"""What Weights & Biases is told of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from realgen.cli.realgen_cli import RealGenCLI
from realgen.cli.wandb_logger import drop_anonymous

LOGGERS = "{wandb: {class_path: lightning.pytorch.loggers.WandbLogger, init_args: {project: p, offline: true}}}"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What ``wandb.init`` is called with, once a logger begins its run."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr("wandb.init", lambda **arguments: seen.update(arguments))
    monkeypatch.delenv("WANDB_MODE")  # the logger sets it, and this puts it back
    return seen


def test_wandb_is_not_told_whether_to_be_anonymous(parse: Callable[..., RealGenCLI], told: dict[str, Any]) -> None:
    """It warns of every value, ``None`` too."""
    logger, _ = parse(f"--loggers={LOGGERS}").trainer.loggers
    assert isinstance(logger, WandbLogger)
    _ = logger.experiment
    assert told["project"] == "p"
    assert "anonymous" not in told


def test_lightning_tells_it(told: dict[str, Any]) -> None:
    """Else there is nothing to drop any more."""
    _ = WandbLogger(project="p", offline=True).experiment
    assert told["anonymous"] is None


def test_what_was_asked_for_stays(told: dict[str, Any]) -> None:
    loggers = [CSVLogger("nowhere"), WandbLogger(project="p", offline=True, anonymous=True)]
    drop_anonymous(loggers)
    _ = loggers[1].experiment
    assert told["anonymous"] == "allow"
