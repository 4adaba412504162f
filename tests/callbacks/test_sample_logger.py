from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from realgen.callbacks import SampleLogger
from realgen.callbacks.sample_logger import log_image, sample_sheet
from realgen.types import RewardOutput, Samples
from tests.helpers.toy_grpo import Prompts, module, trainer


def test_sheets_are_saved_every_so_many_iterations(tmp_path: Path) -> None:
    logger = SampleLogger(every_n_iterations=3, num_images=4, columns=2)
    trainer(tmp_path, callbacks=[logger], max_epochs=4, limit_val_batches=0).fit(module(), Prompts())
    files = sorted((tmp_path / "samples").iterdir())
    assert [file.name for file in files] == ["iteration-000003.png", "iteration-000006.png"]
    with Image.open(files[0]) as sheet:
        # Two prompts, two samples each, two columns; prompt, reward and two parts below each.
        assert sheet.size == (8 + 2 * 200, 8 + 2 * (192 + 4 * 17 + 8))


@pytest.mark.parametrize(
    ("num_images", "rows"),
    [(4, [0, 1, 3, 4]), (100, [0, 1, 2, 3, 4, 5]), (1, [0]), (3, [0, 3])],
)
def test_every_prompt_is_shown_before_a_second_sample_is(num_images: int, rows: list[int]) -> None:
    images = torch.arange(6).view(6, 1, 1, 1).expand(6, 3, 192, 192) / 5
    samples = Samples(("a", "b"), 3, images)
    reward = torch.zeros(2, 3)
    sheet = sample_sheet(samples, RewardOutput(reward, {"r": reward}, {"r": 1.0}), num_images=num_images, columns=6)
    shown = np.asarray(sheet)[100, 100::200, 0]
    assert shown.tolist() == [51 * row for row in rows]


def test_pictures_reach_weights_and_biases_and_no_other_logger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []
    monkeypatch.setattr(WandbLogger, "log_metrics", lambda self, values, step: sent.append((values, step)))
    lightning, picture = trainer(tmp_path), Image.new("RGB", (4, 4))
    lightning.loggers = [CSVLogger(tmp_path), WandbLogger(save_dir=tmp_path, offline=True)]
    log_image(lightning, "samples", picture, 20)
    ((values, step),) = sent
    assert (values["iteration"], step) == (20, 20)
    assert values["samples"][0].image.size == picture.size


@pytest.mark.parametrize("name", ["every_n_iterations", "num_images", "columns"])
def test_impossible_numbers_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        SampleLogger(**{name: 0})


def test_tensorboard_gets_the_sheets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, tuple[int, ...], int, str]] = []

    class Writer:
        """What tensorboardX is to Lightning and to us; the package itself is an extra."""

        def __init__(self, log_dir: str) -> None:
            self.log_dir = log_dir

        def add_image(self, name: str, image: Any, step: int, dataformats: str) -> None:
            sent.append((name, image.shape, step, dataformats))

        def __getattr__(self, name: str) -> Any:
            return lambda *args, **kwargs: None

    monkeypatch.setattr("lightning.fabric.loggers.tensorboard._TENSORBOARD_AVAILABLE", False)
    monkeypatch.setattr("lightning.fabric.loggers.tensorboard._TENSORBOARDX_AVAILABLE", True)
    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=Writer))
    logger = TensorBoardLogger(tmp_path, name="tensorboard", version="", default_hp_metric=False)
    trained = trainer(tmp_path, callbacks=[SampleLogger(every_n_iterations=2, num_images=4, columns=4)], logger=logger)
    learning = module(updates_per_epoch=2)
    trained.fit(learning, Prompts())
    assert trained.global_step == 2 * learning.iteration > 0
    assert [(name, step, form) for name, _, step, form in sent] == [
        ("samples", step, "HWC") for step in (learning.iteration // 2, learning.iteration)
    ]
    assert all(shape[2] == 3 for _, shape, _, _ in sent)
    assert logger.experiment.log_dir.rstrip("/") == str(tmp_path / "tensorboard")
