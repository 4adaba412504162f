from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from realgen.callbacks import EMA, BestCheckpoint, Export, LastCheckpoint
from realgen.callbacks.due_validation import DueValidation
from tests.helpers.toy_grpo import MeanBlue, Prompts, module, trainer


class Scripted(Callback):
    """Lets the validations of a run find what the test says; the baseline is the first one."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.lightning_module.log("val/blue", self.values.pop(0))


class Blue(MeanBlue):
    """Says nothing itself."""

    def compute(self) -> torch.Tensor:
        return torch.tensor(torch.nan)


def fit(folder: Path, values: list[float], best: BestCheckpoint, ckpt_path: Path | None = None, **how: Any) -> Any:
    trained = module(metrics={"blue": Blue()})
    trained.validation.results = lambda: {}  # the script alone logs
    callbacks = [EMA(decay=0.5), Scripted(*values), Export(), LastCheckpoint(), best]
    lightning = trainer(folder, callbacks=callbacks, enable_checkpointing=True, **{"max_epochs": 4, **how})
    if ckpt_path is None:
        lightning.validate(trained, Prompts(), verbose=False)
    lightning.fit(trained, Prompts(), ckpt_path=ckpt_path, weights_only=True)
    return trained


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    ("mode", "values", "iteration"),
    [
        ("auto", [0.0, 3.0, 1.0, 2.0, 2.5], 4),  # MeanBlue: lower is better; the baseline's 0 does not count
        ("max", [0.0, 1.0, 1.0, 1.0, 1.0], 2),
        ("min", [0.0, 4.0, 2.0, torch.nan, 3.0], 4),
        ("min", [0.0, 4.0, 3.0, 2.0, 1.0], 8),
    ],
)
def test_the_best_validation_s_weights_are_kept_and_exported(
    tmp_path: Path, mode: Any, values: list[float], iteration: int
) -> None:
    best = BestCheckpoint("blue", mode)
    fit(tmp_path, values, best)
    kept = load(tmp_path / "checkpoints" / "best.ckpt")
    assert kept["iteration"] == best.iteration == iteration
    assert best.value == values[iteration // 2]
    exported = torch.load(tmp_path / "lora_best" / "w.pt")
    assert torch.equal(exported["weight"], kept["callbacks"]["EMA"]["weights"]["weight"])
    last = load(tmp_path / "checkpoints" / "last.ckpt")["callbacks"]["EMA"]["weights"]["weight"]
    assert torch.equal(exported["weight"], last) is (iteration == 8)
    assert torch.equal(torch.load(tmp_path / "lora" / "w.pt")["weight"], last)


def test_what_was_best_survives_a_resumed_run(tmp_path: Path) -> None:
    fit(tmp_path, [0.0, 5.0, 1.0], BestCheckpoint("blue", "max"), max_epochs=2)
    best = BestCheckpoint("blue", "max")
    fit(tmp_path, [4.0, 3.0], best, tmp_path / "checkpoints" / "last.ckpt")
    assert (best.value, best.iteration) == (5.0, 2)
    assert load(tmp_path / "checkpoints" / "best.ckpt")["iteration"] == 2
    better = BestCheckpoint("blue", "max")
    fit(tmp_path, [6.0], better, tmp_path / "checkpoints" / "last.ckpt", max_epochs=5)
    assert load(tmp_path / "checkpoints" / "best.ckpt")["iteration"] == better.iteration == 10


def test_a_validation_amid_an_epoch_keeps_the_weights_that_it_saw(tmp_path: Path) -> None:
    fit(tmp_path, [0.0, 5.0, 1.0], BestCheckpoint("blue", "max"), max_epochs=1, val_check_interval=1)
    assert load(tmp_path / "checkpoints" / "best.ckpt")["iteration"] == 1


def test_null_keeps_none(tmp_path: Path) -> None:
    fit(tmp_path, [0.0, 5.0], BestCheckpoint(None), max_epochs=1)
    assert not (tmp_path / "checkpoints" / "best.ckpt").exists()


def test_auto_is_the_first_metric_and_its_direction(tmp_path: Path) -> None:
    best = BestCheckpoint()
    best.setup(trainer(tmp_path), module(metrics={"blue": MeanBlue(), "other": MeanBlue()}), "fit")
    assert (best.metric, best.mode) == ("blue", "max" if MeanBlue.higher_is_better else "min")
    none = BestCheckpoint()
    none.setup(trainer(tmp_path), module(), "fit")
    assert none.metric is None


@pytest.mark.parametrize(
    ("metrics", "metric", "message"),
    [
        ({"blue": MeanBlue()}, "kid", "callbacks.best_checkpoint.metric must be one of blue, or null, got 'kid'."),
        ({"blue": MeanBlue()}, "reward", "callbacks.best_checkpoint.metric must be one of blue"),
        ({}, "auroc", "callbacks.best_checkpoint.mode must be max or min for 'auroc', got 'auto'."),
    ],
)
def test_a_metric_that_is_not_measured_is_refused(
    tmp_path: Path, metrics: dict[str, Any], metric: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        BestCheckpoint(metric).setup(trainer(tmp_path), module(metrics=metrics), "fit")


def test_a_validation_that_is_made_up_keeps_the_weights_that_it_saw(tmp_path: Path) -> None:
    """The run was stopped in the validation of its first epoch, and goes on for a second one."""

    class Stopping(Callback):
        def on_validation_batch_start(self, trainer: Any, *args: Any) -> None:
            if trainer.state.fn == "fit":
                raise RuntimeError("stopped")

    callbacks = [DueValidation(), EMA(decay=0.5), Stopping(), Export(), LastCheckpoint()]
    with pytest.raises(RuntimeError, match="stopped"):
        trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True, max_epochs=1).fit(module(), Prompts())
    best, trained = BestCheckpoint("blue", "max"), module(metrics={"blue": Blue()})
    trained.validation.results = lambda: {}
    callbacks = [DueValidation(), EMA(decay=0.5), Scripted(5.0, 1.0), Export(), LastCheckpoint(), best]
    lightning = trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True, max_epochs=2)
    lightning.fit(trained, Prompts(), ckpt_path=tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert trained.policy.iterations == [2, 3]
    assert best.iteration == load(tmp_path / "checkpoints" / "best.ckpt")["iteration"] == 2
    assert load(tmp_path / "checkpoints" / "last.ckpt")["iteration"] == 4


def test_a_kill_before_the_best_checkpoint_was_kept_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``last.ckpt`` says that its weights are the best; the run goes on and finds no better ones."""

    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("realgen.callbacks.best_checkpoint.keep_copy", killed)
        with pytest.raises(SystemExit):
            fit(tmp_path, [0.0, 5.0], BestCheckpoint("blue", "max"), max_epochs=1)
    assert not (tmp_path / "checkpoints" / "best.ckpt").exists()
    fit(tmp_path, [4.0], BestCheckpoint("blue", "max"), tmp_path / "checkpoints" / "last.ckpt", max_epochs=2)
    kept = load(tmp_path / "checkpoints" / "best.ckpt")
    assert kept["iteration"] == 2
    exported = torch.load(tmp_path / "lora_best" / "w.pt")
    assert torch.equal(exported["weight"], kept["callbacks"]["EMA"]["weights"]["weight"])
