from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from realgen.callbacks import LastCheckpoint
from realgen.callbacks.last_checkpoint import save_last
from tests.helpers.toy_grpo import Prompts, module, trainer


def fit(folder: Path, epochs: int = 1, **settings: Any) -> Path:
    callback = LastCheckpoint(**settings)
    lightning = trainer(folder, max_epochs=epochs, callbacks=[callback], enable_checkpointing=True, limit_val_batches=0)
    lightning.fit(module(), Prompts())
    return Path(callback.last_model_path)


def iteration(path: Path) -> int:
    return torch.load(path, weights_only=True)["iteration"]


def test_it_keeps_one_file_up_to_date(tmp_path: Path) -> None:
    assert fit(tmp_path, epochs=3) == tmp_path / "checkpoints" / "last.ckpt"
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
    assert iteration(tmp_path / "checkpoints" / "last.ckpt") == 6


def test_the_end_is_saved_though_the_period_misses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []
    monkeypatch.setattr(
        os, "replace", lambda partial, path: (saved.append(iteration(partial)), os.rename(partial, path))
    )
    fit(tmp_path, epochs=3, every_n_epochs=2, dirpath=str(tmp_path / "mine"))
    assert saved == [4, 6]
    assert iteration(tmp_path / "mine" / "last.ckpt") == 6


def test_a_trial_run_leaves_none(tmp_path: Path) -> None:
    lightning = trainer(tmp_path, callbacks=[LastCheckpoint()], enable_checkpointing=True, fast_dev_run=True)
    lightning.fit(module(), Prompts())
    assert not (tmp_path / "checkpoints").exists()


def test_ckpt_path_last_finds_it(tmp_path: Path) -> None:
    fit(tmp_path, epochs=1)
    resumed = module()
    lightning = trainer(
        tmp_path, max_epochs=2, callbacks=[LastCheckpoint()], enable_checkpointing=True, limit_val_batches=0
    )
    lightning.fit(resumed, Prompts(), ckpt_path="last", weights_only=True)
    assert resumed.policy.iterations == [2, 3]


def test_a_run_killed_while_it_writes_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fit(tmp_path, epochs=1)

    def torn(self: Any, checkpoint: dict[str, Any], path: Path, **options: Any) -> None:
        Path(path).write_bytes(b"half of it")
        raise KeyboardInterrupt("killed")

    lightning = trainer(tmp_path, max_epochs=2, callbacks=[LastCheckpoint()], enable_checkpointing=True)
    with monkeypatch.context() as patch:
        patch.setattr(TorchCheckpointIO, "save_checkpoint", torn)
        with pytest.raises(SystemExit):
            lightning.fit(module(), Prompts(), ckpt_path=str(path), weights_only=True)
    assert (tmp_path / "checkpoints" / "last.partial").read_bytes() == b"half of it"
    assert iteration(path) == 2
    fit(tmp_path, epochs=2)  # and the torn file is in nobody's way
    assert [each.name for each in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


def test_a_folder_is_swapped_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint of a sharded model is a folder."""
    lightning = trainer(tmp_path)
    for content in ("first", "second", "third"):

        def save(path: Path, weights_only: bool, content: str = content) -> None:
            path.mkdir(parents=True)
            (path / "shard").write_text(content)

        monkeypatch.setattr(lightning, "save_checkpoint", save)
        path = save_last(lightning)
        assert (path / "shard").read_text() == content
        assert [each.name for each in path.parent.iterdir()] == ["last.ckpt"]


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="every_n_epochs must be at least 1, got 0"):
        LastCheckpoint(every_n_epochs=0)
