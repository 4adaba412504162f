"""What fails on one of two ranks fails on both, and nobody waits for ever."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from realgen.callbacks import LastCheckpoint
from realgen.parallel import world_size
from realgen.rewards import WeightedSum
from realgen.types import RewardOutput, Samples
from tests.helpers.toy_grpo import Color, MeanBlue, Prompts, module, trainer
from tests.strategies.ranks import on_ranks

pytestmark = pytest.mark.distributed


def is_second() -> bool:
    return world_size() > 1 and torch.distributed.get_rank() == 1


class Away(WeightedSum):
    """Fails at one call, on the second rank alone."""

    def __init__(self, at: int) -> None:
        super().__init__({"red": Color(0)})
        self.left = at

    def __call__(self, samples: Samples) -> RewardOutput:
        self.left -= 1
        if self.left == 0 and is_second():
            raise RuntimeError("my server is away")
        return super().__call__(samples)


class HalfBlue(MeanBlue):
    """Fails on the second rank alone."""

    def update(self, *args: Any, **given: Any) -> None:
        if is_second():
            raise RuntimeError("no second eye")
        super().update(*args, **given)


class HalfComputed(MeanBlue):
    """Fails once, on the second rank alone, when the images of both are gathered."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def compute(self) -> Tensor:
        self.passes += 1
        if self.passes == 1 and is_second():
            raise RuntimeError("no second eye")
        return super().compute()


class KeepValidations(Callback):
    """Writes what each rank has after each validation."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = Path(trainer.default_root_dir) / f"{trainer.global_rank}.json"
        seen = json.loads(path.read_text()) if path.exists() else []
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        path.write_text(json.dumps([*seen, [values, pl_module.validation.without_each]]))


def fit(rank: int, folder: Path, settings: dict[str, Any]) -> None:
    strategy = DDPStrategy(process_group_backend="gloo")
    callbacks = {
        "callbacks": [LastCheckpoint(), KeepValidations()],
        "enable_checkpointing": True,
        "use_distributed_sampler": False,
    }
    trainer(folder, devices=2, strategy=strategy, **callbacks).fit(module(**settings), Prompts())


def last_iteration(folder: Path) -> int:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["iteration"]


# An epoch is two iterations, then two batches of validation.
@pytest.mark.parametrize(("call", "done"), [(2, 1), (4, 2), (6, 3)])
def test_a_reward_that_fails_on_one_rank_ends_both_and_the_run_is_saved(tmp_path: Path, call: int, done: int) -> None:
    assert on_ranks(fit, tmp_path, {"reward": Away(call)}) == [1, 1]
    assert last_iteration(tmp_path) == done


def test_a_metric_that_fails_on_one_rank_is_empty_on_both(tmp_path: Path) -> None:
    assert on_ranks(fit, tmp_path, {"metrics": {"half": HalfBlue(), "blue": MeanBlue()}}) == [0, 0]
    assert last_iteration(tmp_path) == 4


def test_a_metric_whose_value_fails_on_one_rank_is_empty_on_both_once(tmp_path: Path) -> None:
    metrics = {"half": HalfComputed(), "blue": MeanBlue()}
    assert on_ranks(fit, tmp_path, {"metrics": metrics}) == [0, 0]
    for rank in range(2):
        (first, spared), (second, intervals) = json.loads((tmp_path / f"{rank}.json").read_text())
        assert math.isnan(first["val/half"])
        assert first["val/blue"] == second["val/blue"] == second["val/half"] == 0.5
        assert set(spared) == {"blue"}
        assert set(intervals) == {"half", "blue"}
