"""A detector that learns beside a policy whose weights are sharded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from realgen.data.detector_pairs import PairSettings
from realgen.modules.detector_learning import DetectorLearning
from realgen.policies.whole_weights import gathered_weights
from realgen.rewards import Realism, WeightedSum
from realgen.strategies import FSDP2
from tests.helpers.toy_detector import PLAIN, ColorDetector, fill
from tests.modules.test_resume import assert_same
from tests.strategies.ranks import fit, make_policy, on_ranks


class Keep(Callback):
    """Keeps a checkpoint after the second iteration, and what a rank has at the end: weights, whole, and the state."""

    def on_train_epoch_end(self, lightning: Trainer, module: Any) -> None:
        if module.iteration == 2:
            lightning.save_checkpoint(Path(lightning.default_root_dir, "second.ckpt"))

    def on_train_end(self, lightning: Trainer, module: Any) -> None:
        (learner,) = [each for each in lightning.callbacks if isinstance(each, DetectorLearning)]
        weights = gathered_weights(module.policy, trained_only=True)
        seen = {"weights": weights, "learner": learner.state_dict()}
        torch.save(seen, Path(lightning.default_root_dir, f"rank{lightning.global_rank}.pt"))


def train(rank: int, directory: str, folder: Path, photographs: str, ckpt: Path | None) -> None:
    pairs = PairSettings(photographs=photographs, held_out=0.4, augment=PLAIN, per_step=2, replay=3)
    settings = {"max_passes": 1, "threshold": 0.0, "pairs": pairs}
    learner = DetectorLearning("color", lambda p: torch.optim.AdamW(p, lr=0.1), **settings)
    policy, reward = make_policy(directory, num_steps=2), WeightedSum({"color": Realism(ColorDetector())})
    how = {"strategy": FSDP2(), "iterations": 3, "ckpt": ckpt, "exports": False}
    fit(folder, policy, reward=reward, callbacks=[learner, Keep()], **how)


@pytest.mark.distributed
def test_a_resumed_detector_equals_an_uninterrupted_one(sd3: str, tmp_path: Path) -> None:
    photographs, straight, resumed = fill(tmp_path / "real", (200, 60, 60), 12), tmp_path / "a", tmp_path / "b"
    assert on_ranks(train, sd3, straight, photographs, None) == [0, 0]
    assert on_ranks(train, sd3, resumed, photographs, straight / "second.ckpt") == [0, 0]
    ends = [torch.load(folder / f"rank{rank}.pt") for folder in (straight, resumed) for rank in range(2)]
    assert ends[0]["learner"]["updates"] == 2  # one before and one behind the checkpoint
    for other in ends[1:]:
        assert_same(other, ends[0])
