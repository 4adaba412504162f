"""NCCL takes no CPU tensors: a run as one of two ranks on the shadow GPU hands none to a collective."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing._internal.distributed.fake_pg import FakeStore

from realgen.callbacks import EMA, LastCheckpoint, Preemption, ValidationRows
from realgen.parallel import any_rank, gather_first_axis
from realgen.rewards.base import Reward
from realgen.types import Samples
from tests.helpers import toy_grpo
from tests.helpers.shadow_device import GPU, shadow_device
from tests.helpers.shadow_trainer import OneOfTwoRanks, shadow_training


def test_a_cpu_tensor_is_refused() -> None:
    torch.distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        with shadow_device():
            assert any_rank(True, GPU)
            assert gather_first_axis(torch.ones(3, device=GPU)).tolist() == [1.0] * 6
            with pytest.raises(RuntimeError, match="device type cpu"):
                gather_first_axis(torch.ones(3))
    finally:
        torch.distributed.destroy_process_group()


class OnTheHost(Reward):
    """Computes without the GPU, and returns what it has."""

    def score(self, samples: Samples) -> torch.Tensor:
        return samples.images.cpu()[:, 0].mean((1, 2))


@pytest.mark.parametrize("reward", [None, OnTheHost()], ids=["on the GPU", "on the host"])
def test_a_fit_with_validation_and_checkpoints(tmp_path: Path, reward: Reward | None) -> None:
    settings = {} if reward is None else {"reward": reward}
    module = toy_grpo.module(metrics={"blue": toy_grpo.MeanBlue()}, **settings)
    callbacks = [EMA(), LastCheckpoint(str(tmp_path)), Preemption(), ValidationRows()]
    trainer = toy_grpo.trainer(
        tmp_path, devices=2, strategy=OneOfTwoRanks(), callbacks=callbacks, enable_checkpointing=True
    )
    with shadow_training(), shadow_device():
        trainer.fit(module, toy_grpo.Prompts())
    assert trainer.world_size == 2
    assert float(trainer.callback_metrics["val/reward"]) > 0
    assert (tmp_path / "last.ckpt").is_file()
