from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger

from realgen.callbacks import EMA, LastCheckpoint, SampleLogger
from realgen.callbacks.run_context import callbacks_of, checkpoint_folder, iteration_of, policy_of, run_folder
from tests.helpers.toy_grpo import Prompts, module, trainer


def test_a_module_without_a_policy_is_refused() -> None:
    with pytest.raises(TypeError, match="LightningModule has no policy"):
        policy_of(LightningModule())
    assert iteration_of(LightningModule()) == 0


def test_callbacks_are_found_by_class(tmp_path: Path) -> None:
    first, second = SampleLogger(), SampleLogger()
    lightning = trainer(tmp_path, callbacks=[first, EMA(), second])
    assert callbacks_of(lightning, SampleLogger) == [first, second]


def test_the_run_s_folder_is_around_its_checkpoints(tmp_path: Path) -> None:
    assert run_folder(trainer(tmp_path)) == tmp_path
    mine = trainer(tmp_path, callbacks=[LastCheckpoint(str(tmp_path / "a" / "saved"))], enable_checkpointing=True)
    assert (checkpoint_folder(mine), run_folder(mine)) == (tmp_path / "a" / "saved", tmp_path / "a")
    logged = trainer(
        tmp_path,
        callbacks=[LastCheckpoint()],
        enable_checkpointing=True,
        logger=CSVLogger(tmp_path, name="runs", version="first"),
    )
    logged.validate(module(), Prompts(), verbose=False)
    assert run_folder(logged) == tmp_path / "runs" / "first"
