from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from realgen.callbacks import EMA, LastCheckpoint, SampleLogger
from realgen.callbacks.run_context import (
    callbacks_of,
    iteration_of,
    last_checkpoint,
    run_folder,
    trained_of,
)
from realgen.policies.weight_copy import trained_weights
from tests.helpers.toy_grpo import Prompts, module, trainer


def test_a_module_trains_its_policy_or_itself() -> None:
    alone, grpo = LightningModule(), module()
    assert trained_of(alone) is alone
    assert trained_of(grpo) is grpo.policy
    assert iteration_of(alone) == 0


def test_trained_weights_are_those_with_a_gradient() -> None:
    network = nn.Linear(2, 2)
    network.bias.requires_grad_(False)
    assert list(trained_weights(network)) == ["weight"]


def test_callbacks_are_found_by_class(tmp_path: Path) -> None:
    first, second = SampleLogger(), SampleLogger()
    lightning = trainer(tmp_path, callbacks=[first, EMA(), second])
    assert callbacks_of(lightning, SampleLogger) == [first, second]


def test_the_run_s_folder_is_the_trainer_s_wherever_others_write(tmp_path: Path) -> None:
    usual = tmp_path / "checkpoints" / "last.ckpt"
    assert (run_folder(trainer(tmp_path)), last_checkpoint(trainer(tmp_path))) == (tmp_path, usual)
    mine = trainer(tmp_path, callbacks=[LastCheckpoint(str(tmp_path / "a" / "saved"))], enable_checkpointing=True)
    assert (run_folder(mine), last_checkpoint(mine)) == (tmp_path, tmp_path / "a" / "saved" / "last.ckpt")
    # Lightning's own checkpoint follows the logger, and keeps no last.ckpt.
    logged = trainer(tmp_path, enable_checkpointing=True, logger=CSVLogger(tmp_path, name="runs", version="first"))
    logged.validate(module(), Prompts(), verbose=False)
    assert logged.checkpoint_callback.dirpath == str(tmp_path / "runs" / "first" / "checkpoints")
    assert (run_folder(logged), last_checkpoint(logged)) == (tmp_path, usual)
