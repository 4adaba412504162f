"""Two ranks that share a batch train as one rank does, and measure the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy

from realgen.modules import DetectorTraining
from tests.helpers.toy_detector import ColorDetector, folders
from tests.helpers.toy_grpo import trainer


class SaveEnd(Callback):
    """Keeps what rank 0 has at the end; the processes that a launcher forks take their module with them."""

    def on_fit_end(self, trainer: Trainer, pl_module: DetectorTraining) -> None:
        if trainer.is_global_zero:
            figures = {name: torch.stack(list(quality)) for name, quality in pl_module.quality.items()}
            weight, iteration = pl_module.network.head.weight.detach(), torch.tensor(pl_module.iteration)
            torch.save({"weight": weight, "iteration": iteration, **figures}, trainer.default_root_dir + "/end.pt")


def fit(root: Path, *, batch_size: int, **settings: Any) -> None:
    """Two passes; the validation has one image more than the ranks can share evenly."""
    module = DetectorTraining(ColorDetector(), optimizer=lambda p: torch.optim.SGD(p, lr=1.0), cheats=False)
    whole = {"limit_train_batches": 1.0, "max_epochs": 2, "use_distributed_sampler": False, "callbacks": [SaveEnd()]}
    data = folders(root / "images", batch_size=batch_size, validation_batch_size=2)
    trainer(root, **{**whole, **settings}).fit(module, data)


@pytest.mark.distributed
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    fit(one, batch_size=8)
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo")
    fit(two, batch_size=4, devices=2, strategy=strategy)
    expected, found = torch.load(one / "end.pt"), torch.load(two / "end.pt")
    assert expected.keys() == found.keys()
    assert {"plain", "jpeg_75"} < expected.keys()
    for name in expected.keys() - {"grain"}:  # the noise of a row depends on its rank and batch
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6, equal_nan=True)
    assert float(expected["plain"][0]) == 1.0
