from __future__ import annotations

import resource
import signal
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback

from realgen.callbacks import LastCheckpoint, last_checkpoint
from realgen.callbacks.due_validation import DueValidation
from realgen.callbacks.last_checkpoint import save_last
from realgen.callbacks.metrics_csv import MetricsCSV
from realgen.checkpoint_files import install
from realgen.strategies.checkpoint import WholeFileIO
from realgen.tables import complete_rows
from tests.helpers.forked import forked
from tests.helpers.toy_grpo import Prompts, module, trainer


def fit(folder: Path, epochs: int = 1, **settings: Any) -> Path:
    callback = LastCheckpoint(**settings)
    lightning = trainer(folder, max_epochs=epochs, callbacks=[callback], enable_checkpointing=True, limit_val_batches=0)
    lightning.fit(module(), Prompts())
    return Path(callback.last_model_path)


def iteration(path: Path) -> int:
    return torch.load(path, weights_only=True)["iteration"]


def names(folder: Path) -> set[str]:
    """Names of the checkpoints of a folder, without those of their checksums."""
    found = {path.name for path in folder.iterdir()}
    return {name for name in found if name.removesuffix(".sha256") == name or name.removesuffix(".sha256") not in found}


def test_it_keeps_the_last_file_up_to_date_and_the_one_before(tmp_path: Path) -> None:
    assert fit(tmp_path, epochs=3) == tmp_path / "checkpoints" / "last.ckpt"
    assert names(tmp_path / "checkpoints") == {"last.ckpt", "previous.ckpt"}
    assert iteration(tmp_path / "checkpoints" / "last.ckpt") == 6
    assert iteration(tmp_path / "checkpoints" / "previous.ckpt") == 4


def test_the_end_is_saved_though_the_period_misses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []
    monkeypatch.setattr(
        last_checkpoint,
        "install",
        lambda new, path, **how: (saved.append(iteration(new)), install(new, path, **how)),
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
    assert iteration(path) == 2
    assert names(tmp_path / "checkpoints") == {"last.ckpt"}
    fit(tmp_path, epochs=2)
    assert names(tmp_path / "checkpoints") == {"last.ckpt", "previous.ckpt"}


def test_a_folder_is_swapped_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint of a sharded model is a folder."""
    lightning = trainer(tmp_path)
    before = None
    for content in ("first", "second", "third"):

        def save(path: Path, weights_only: bool, content: str = content) -> None:
            path.mkdir(parents=True)
            (path / "shard").write_text(content)

        monkeypatch.setattr(lightning, "save_checkpoint", save)
        path = save_last(lightning)
        assert (path / "shard").read_text() == content
        if before is not None:
            assert (path.with_name("previous.ckpt") / "shard").read_text() == before
        before = content
    assert names(path.parent) == {"last.ckpt", "previous.ckpt"}


class Fail(Callback):
    """Ends a run before the validation after its second iteration."""

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        raise OSError("No space left on device")


def test_loggers_count_on_in_a_longer_run_behind_a_validation_that_was_made_up_for(tmp_path: Path) -> None:
    """Lightning's count of batches is one short then, and decides which iterations are logged."""
    last, logger = tmp_path / "last.ckpt", MetricsCSV(tmp_path, iteration=lambda: 0, fresh=False)
    settings = {"log_every_n_steps": 2, "limit_val_batches": 1, "logger": logger}
    for epochs, others, ckpt_path in ((1, [Fail()], None), (1, [], last), (3, [], last)):
        callbacks = [DueValidation(), LastCheckpoint(dirpath=str(tmp_path)), *others]
        lightning = trainer(tmp_path, max_epochs=epochs, enable_checkpointing=True, callbacks=callbacks, **settings)
        with pytest.raises(OSError, match="No space") if others else nullcontext():
            lightning.fit(module(), Prompts(), ckpt_path=ckpt_path, weights_only=True)
    assert [float(row["iteration"]) for row in complete_rows(logger.path) if row["reward"]] == [2, 4, 6]


def test_what_the_command_line_s_trainer_writes_needs_no_temporary_folder(tmp_path: Path) -> None:
    def save() -> None:
        tempfile.tempdir = "/nowhere"
        WholeFileIO().save_checkpoint({"a": torch.ones(10)}, tmp_path / "in" / "last.ckpt")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            WholeFileIO().save_checkpoint({"a": torch.ones(10_000)}, tmp_path / "in" / "last.ckpt")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)  # the error is written to a file, too

    ended = forked(save, tmp_path)
    assert ended.stderr.strip().endswith(f"OSError: [Errno 27] File too large: '{tmp_path}/in/last.ckpt'")
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["last.ckpt"]
    assert torch.equal(torch.load(tmp_path / "in" / "last.ckpt")["a"], torch.ones(10))


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="every_n_epochs must be at least 1, got 0"):
        LastCheckpoint(every_n_epochs=0)
