"""The weights of a checkpoint without a trainer, and what a finished run still lacks; with models of a few weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from realgen.callbacks import EMA, BestCheckpoint, Export, LastCheckpoint, Report, Summary
from realgen.callbacks.due_validation import DueValidation
from realgen.checkpoint_files import check_checkpoint, keep_copy
from realgen.cli.finishing import _lacks, export_checkpoint, finish, is_finished, load_checkpoint, put_weights
from tests.helpers.toy_grpo import GaussianPolicy, MeanBlue, Prompts, module, trainer


def callbacks() -> list[Any]:
    return [EMA(decay=0.5), Export(), Summary(num_images=2), LastCheckpoint(), BestCheckpoint("blue", "min")]


def fitted(folder: Path, *more: Callback, **how: Any) -> Any:
    trained = module(metrics={"blue": MeanBlue()})
    trainer(folder, callbacks=[*more, *callbacks()], enable_checkpointing=True, **how).fit(trained, Prompts())
    return trained


def loaded() -> GaussianPolicy:
    policy = GaussianPolicy()
    policy.load()
    return policy


def test_averages_and_live_weights_come_back_from_a_checkpoint(tmp_path: Path) -> None:
    trained = fitted(tmp_path)
    checkpoint = load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    policy = loaded()
    assert put_weights(policy, checkpoint, "live") == "live"
    assert torch.equal(policy.weight, trained.policy.weight)
    assert put_weights(policy, checkpoint) == "ema"
    assert torch.equal(policy.weight, torch.load(tmp_path / "lora" / "w.pt")["weight"])
    assert not torch.equal(policy.weight, trained.policy.weight)
    path = export_checkpoint(policy, tmp_path / "checkpoints" / "last.ckpt", tmp_path / "again")
    assert (path / "export.json").read_bytes() == (tmp_path / "lora" / "export.json").read_bytes()
    assert torch.equal(torch.load(path / "w.pt")["bias"], torch.load(tmp_path / "lora" / "w.pt")["bias"])


def test_weights_of_another_policy_are_refused(tmp_path: Path) -> None:
    fitted(tmp_path)
    checkpoint = load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    del checkpoint["callbacks"]["EMA"]
    with pytest.raises(ValueError, match="weights: the checkpoint has no averages"):
        put_weights(loaded(), checkpoint, "ema")
    del checkpoint["state_dict"]["policy.bias"]
    with pytest.raises(ValueError, match="differ in 1 trained weights, such as bias"):
        put_weights(loaded(), checkpoint)


@pytest.mark.parametrize(
    ("max_epochs", "max_steps", "finished"),
    [(2, -1, True), (3, -1, False), (1, -1, True), (-1, -1, False), (-1, 4, True), (-1, 5, False), (9, 4, True)],
)
def test_a_run_is_finished_when_a_limit_is_reached(
    tmp_path: Path, max_epochs: int, max_steps: int, finished: bool
) -> None:
    fitted(tmp_path, limit_val_batches=0)
    told = check_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert is_finished(told, trainer(tmp_path, max_epochs=max_epochs, max_steps=max_steps)) is finished
    assert not is_finished({**told, "validation_due": True}, trainer(tmp_path, max_epochs=2))
    assert not is_finished({}, trainer(tmp_path, max_epochs=2))


def test_a_format_that_is_asked_for_later_is_lacking(tmp_path: Path) -> None:
    (tmp_path / "rewriter" / "peft").mkdir(parents=True)
    assert not _lacks(tmp_path, ["peft"])
    assert _lacks(tmp_path, ["peft", "comfyui"])


class StopAt(Callback):
    """Ends the run, as a watch, early stopping or a time limit do."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        trainer.should_stop = pl_module.iteration >= 2


def test_a_run_that_a_callback_ended_is_finished_until_it_is_given_more(tmp_path: Path) -> None:
    fitted(tmp_path, StopAt(), DueValidation(), max_epochs=6)
    told = check_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert told["iteration"] == 2
    assert is_finished(told, trainer(tmp_path, max_epochs=6))
    assert not is_finished(told, trainer(tmp_path, max_epochs=12))
    assert not is_finished({**told, "stopped": None}, trainer(tmp_path, max_epochs=6))


def test_a_checkpoint_before_the_last_validation_is_not_finished(tmp_path: Path) -> None:
    """It holds all iterations; its epoch has not ended."""

    class StopError(Exception):
        """Ends the run."""

    def fail(*args: Any) -> None:
        raise StopError

    trained = module()
    trained.validation_step = fail
    with pytest.raises(StopError):
        trainer(tmp_path, callbacks=[LastCheckpoint()], enable_checkpointing=True, max_epochs=1).fit(trained, Prompts())
    told = check_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert told["iteration"] == 2
    assert not is_finished(told, trainer(tmp_path, max_epochs=1))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def go_on(folder: Path, *more: Any) -> None:
    """As ``realgen.fit`` does it with a finished run."""
    path = folder / "checkpoints" / "last.ckpt"
    lightning = trainer(folder, callbacks=[*callbacks(), *more], enable_checkpointing=True)
    assert is_finished(check_checkpoint(path), lightning)
    assert finish(lightning, module(metrics={"blue": MeanBlue()}), path) == 0


def test_a_finished_run_is_left_alone_and_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(tmp_path)
    before = files(tmp_path)
    capsys.readouterr()
    go_on(tmp_path)
    assert capsys.readouterr().out == "finished at iteration 4; to go on add --trainer.max_epochs=4\n"
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "lacking",
    [
        ("lora",),
        ("lora/w.pt",),
        ("lora_best",),
        ("summary.json",),
        ("before_after.png",),
        ("lora", "lora_best", "summary.json"),
    ],
)
def test_what_a_finished_run_lacks_is_made(
    lacking: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted(tmp_path)
    screen = capsys.readouterr().out
    before = files(tmp_path)
    for name in lacking:
        for path in sorted((tmp_path / name).rglob("*"), reverse=True) if (tmp_path / name).is_dir() else ():
            path.unlink()
        (tmp_path / name).rmdir() if (tmp_path / name).is_dir() else (tmp_path / name).unlink()
    go_on(tmp_path)
    out = capsys.readouterr().out
    assert out.endswith("finished at iteration 4; to go on add --trainer.max_epochs=4\n")
    after = files(tmp_path)
    assert after.keys() == before.keys()
    for name, data in before.items():
        if name.endswith("w.pt"):
            assert all(torch.equal(a, b) for a, b in _pairs(tmp_path / name, data))
        else:
            assert after[name] == data
    if "summary.json" in lacking:
        assert screen in out


def test_a_finished_run_without_a_report_gets_one_and_an_old_one_is_left(tmp_path: Path) -> None:
    fitted(tmp_path)
    (tmp_path / "config.yaml").write_text("# realgen 0: python -m realgen.fit\nmodel: null\n")
    go_on(tmp_path, Report())
    page = tmp_path / "report.html"
    assert f"Run {tmp_path.parent.name}/{tmp_path.name}" in page.read_text(encoding="utf-8")
    page.write_text("old")
    go_on(tmp_path, Report())
    assert page.read_text() == "old"
    (tmp_path / "summary.json").unlink()  # killed behind the last validation's page, which had no intervals to show
    go_on(tmp_path, Report())
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def _pairs(path: Path, data: bytes) -> list[tuple[Any, Any]]:
    import io

    new, old = torch.load(path), torch.load(io.BytesIO(data))
    return [(new[name], old[name]) for name in old.keys() | new.keys()]


def test_an_export_of_an_earlier_end_is_replaced(tmp_path: Path) -> None:
    fitted(tmp_path)
    (tmp_path / "lora" / "export.json").write_text('{"iteration": 2, "weights": "ema"}\n')
    (tmp_path / "lora" / "w.pt").write_bytes(b"old")
    go_on(tmp_path)
    assert torch.load(tmp_path / "lora" / "w.pt").keys() == {"weight", "bias"}


@pytest.mark.parametrize("harm", ["missing", "truncated", "of an earlier validation"])
def test_the_best_checkpoint_of_a_finished_run_is_made_again_from_the_last_one(
    harm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kill comes between the last checkpoint, which knows that it is the best, and its copy."""
    fitted(tmp_path)
    best, last = tmp_path / "checkpoints" / "best.ckpt", tmp_path / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()) if last.samefile(best) else None
    expected = torch.load(last, weights_only=True)
    best.unlink()
    if harm == "truncated":
        best.write_bytes(last.read_bytes()[:1000])
    elif harm != "missing":
        keep_copy(tmp_path / "checkpoints" / "previous.ckpt", best)
    state = expected["callbacks"]["BestCheckpoint"]
    if state["iteration"] != 4:  # as if the last validation had been the best
        state["iteration"] = 4
        torch.save(expected, last)
        last.with_name("last.ckpt.sha256").unlink()
    (tmp_path / "lora_best" / "export.json").unlink()
    go_on(tmp_path)
    assert check_checkpoint(best)["iteration"] == 4
    assert "lora_best" in capsys.readouterr().out
    assert (tmp_path / "lora_best" / "export.json").read_bytes() == (tmp_path / "lora" / "export.json").read_bytes()


def test_a_damaged_best_checkpoint_costs_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    told = torch.load(last, weights_only=True)
    told["callbacks"]["BestCheckpoint"]["iteration"] = 2
    last.unlink()
    torch.save(told, last)
    last.with_name("last.ckpt.sha256").unlink()
    last.with_name("best.ckpt").write_bytes(b"half")
    (tmp_path / "lora" / "export.json").unlink()
    (tmp_path / "summary.json").unlink()
    go_on(tmp_path)
    out = capsys.readouterr().out
    assert f"not exported: {last.with_name('best.ckpt')} is damaged" in out
    assert (tmp_path / "lora" / "export.json").exists()
    assert (tmp_path / "summary.json").exists()


def test_what_is_told_to_go_on_with_is_more_than_was_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(tmp_path)
    capsys.readouterr()
    lightning = trainer(tmp_path, callbacks=callbacks(), enable_checkpointing=True, max_epochs=1)
    finish(lightning, module(metrics={"blue": MeanBlue()}), tmp_path / "checkpoints" / "last.ckpt")
    assert capsys.readouterr().out == "finished at iteration 4; to go on add --trainer.max_epochs=4\n"
