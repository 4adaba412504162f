"""A rank that is lost ends the others with an error, in bounded time."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer

from realgen.modules import GRPOModule
from realgen.strategies import FSDP2
from tests.strategies.ranks import fit, make_policy, on_ranks

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


class Lose(Callback):
    """Sends the second rank a signal amid an update."""

    def __init__(self, number: int) -> None:
        self.number = number

    def on_before_optimizer_step(self, lightning: Trainer, module: GRPOModule, *args: Any) -> None:
        if lightning.global_rank == 1:
            os.kill(os.getpid(), self.number)


def train(rank: int, directory: str, folder: Path, number: int, minutes: float) -> None:
    policy = make_policy(directory, num_steps=2)
    try:
        fit(folder, policy, strategy=FSDP2(timeout_minutes=minutes), callbacks=[Lose(number)], iterations=2)
    except RuntimeError as error:
        (folder / "error.txt").write_text(str(error))
        raise


def test_a_rank_that_is_killed_is_noticed_at_once(sd3: str, tmp_path: Path) -> None:
    assert on_ranks(train, sd3, tmp_path, signal.SIGKILL, 30.0, grace=120) == [1, -signal.SIGKILL]
    assert "onnection" in (tmp_path / "error.txt").read_text()


def test_a_rank_that_hangs_is_noticed_after_the_timeout(sd3: str, tmp_path: Path) -> None:
    codes = on_ranks(train, sd3, tmp_path, signal.SIGSTOP, 0.2, grace=0)
    assert codes == [1, None]
    assert "imed out" in (tmp_path / "error.txt").read_text()
