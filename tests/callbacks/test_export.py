from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from safetensors.torch import save_file

from realgen.callbacks import EMA, Export, LastCheckpoint
from realgen.callbacks.export import write_export
from realgen.checkpoint_files import exported_iteration
from realgen.modules import OnPolicyError
from realgen.whole_files import files_of
from tests.helpers.toy_grpo import GaussianPolicy, Prompts, module, trainer


def test_the_average_is_exported_at_the_end(tmp_path: Path) -> None:
    trained, average, export = module(), EMA(decay=0.9, warmup=1), Export("weights")
    trainer(tmp_path, callbacks=[export, average], limit_val_batches=0).fit(trained, Prompts())
    assert export.path == tmp_path / "weights"
    exported = torch.load(export.path / "w.pt")
    assert torch.equal(exported["weight"], average.weights["weight"])
    assert not torch.equal(exported["weight"], trained.policy.weight)


def test_the_live_weights_are_exported_without_an_average(tmp_path: Path) -> None:
    trained, export = module(), Export()
    trainer(tmp_path, callbacks=[export], limit_val_batches=0).fit(trained, Prompts())
    assert torch.equal(torch.load(tmp_path / "lora" / "w.pt")["bias"], trained.policy.bias)


def test_the_weights_are_saved_and_exported_before_the_last_validation(tmp_path: Path) -> None:
    """A metric that fails there costs no weights."""

    class Failing(Callback):
        def on_validation_batch_start(self, trainer: Trainer, *args: object) -> None:
            if trainer.current_epoch == 1:
                raise RuntimeError("the metric fails")

    average = EMA(decay=0.5)
    callbacks = [Failing(), Export(), average, LastCheckpoint()]
    trained = module()
    with pytest.raises(RuntimeError, match="the metric fails"):
        trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True).fit(trained, Prompts())
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["iteration"] == 4
    assert torch.equal(saved["state_dict"]["policy.weight"], trained.policy.weight)  # not the averages
    assert torch.equal(torch.load(tmp_path / "lora" / "w.pt")["weight"], average.weights["weight"])
    assert exported_iteration(tmp_path / "lora") == 4


def test_an_export_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = module().policy
    policy.load()
    place = tmp_path / "lora"
    assert write_export(policy, place, iteration=3, averaged=False) == place
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    assert set(before) == {"export.json", "pytorch_lora_weights.safetensors", "w.pt"}

    def torn(directory: Path) -> Path:
        directory.mkdir()
        (directory / "w.pt").write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(policy, "export", torn)
    with pytest.raises(OSError, match="No space"):
        write_export(policy, place, iteration=5, averaged=False)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    assert exported_iteration(place) == 3
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_files_have_the_rights_that_the_umask_leaves(
    tmp_path: Path, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``safetensors`` writes 0600: trained as one user, served as another, no adapter was found."""
    policy = module().policy
    monkeypatch.setattr(policy, "export", lambda folder: save_private(folder / "inner" / "lora.safetensors"))
    before = os.umask(umask)
    try:
        write_export(policy, tmp_path / "lora", iteration=3, averaged=False)
    finally:
        os.umask(before)
    rights = {path.name: path.stat().st_mode & 0o777 for path in files_of(tmp_path / "lora")}
    assert rights == dict.fromkeys(["export.json", "lora.safetensors"], 0o666 & ~umask)


def save_private(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    save_file({"w": torch.zeros(1)}, path)
    path.chmod(0o600)
    return path.parent


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"iteration": null}'])
def test_an_export_without_a_record_is_of_no_iteration(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "export.json").write_text(text)
    assert exported_iteration(tmp_path) is None


def test_an_error_exports_nothing(tmp_path: Path) -> None:
    export = Export()
    with pytest.raises(OnPolicyError):
        trainer(tmp_path, callbacks=[export]).fit(module(policy=GaussianPolicy(fault="conditioning")), Prompts())
    assert export.path is None
    assert not (tmp_path / "lora").exists()
