"""A run that was interrupted equals one that was not, to the bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from realgen.callbacks import EMA, LastCheckpoint, Preemption, Summary
from realgen.modules import GRPOModule
from realgen.rewards import WeightedSum
from realgen.types import RewardOutput, Samples
from tests.helpers.toy_grpo import Color, GaussianPolicy, MeanBlue, Prompts, module, trainer

SAME = ("state_dict", "optimizer_states", "lr_schedulers", "iteration", "EMA", "Summary")


def run(folder: Path, epochs: int, *callbacks: Callback, resume: bool = False, reward: Any = None) -> dict[str, Any]:
    """Train to an epoch of two iterations; returns what the checkpoint holds at the end."""
    trained = module(
        **{} if reward is None else {"reward": reward},
        metrics={"blue": MeanBlue()},
        inner_epochs=2,
        updates_per_epoch=2,
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step),
    )
    last = folder / "checkpoints" / "last.ckpt"
    callbacks = (EMA(decay=0.8), Summary(num_images=2), LastCheckpoint(), Preemption(), *callbacks)
    lightning = trainer(folder, max_epochs=epochs, callbacks=list(callbacks), enable_checkpointing=True)
    lightning.fit(trained, Prompts(), ckpt_path=str(last) if resume else None, weights_only=True)
    return state(last)


def state(path: Path) -> dict[str, Any]:
    checkpoint = torch.load(path, weights_only=True)
    parts = {**checkpoint, **checkpoint["callbacks"]}
    return {name: parts[name] for name in SAME}


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Equal to the bit, all the way down."""
    assert type(one) is type(other), where
    if isinstance(one, Mapping):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}/{index}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(tmp_path_factory.mktemp("straight"), 2)


def test_the_checkpoint_holds_all_that_matters(straight: dict[str, Any]) -> None:
    assert straight["iteration"] == 4
    assert set(straight["state_dict"]) == {"policy.weight", "policy.bias"}  # no frozen weight
    assert straight["EMA"]["updates"] == 16
    assert not torch.equal(straight["EMA"]["weights"]["bias"], straight["state_dict"]["policy.bias"])
    assert straight["optimizer_states"][0]["state"][0]["step"] == 16
    assert straight["Summary"]["before"]["iteration"] == 2


def test_two_and_two_iterations_equal_four(straight: dict[str, Any], tmp_path: Path) -> None:
    half = run(tmp_path, 1)
    assert half["iteration"] == 2
    assert_same(run(tmp_path, 2, resume=True), straight)


class Send(Callback):
    """Sends a signal to this process at one place of the run."""

    def __init__(self, number: int, hook: str, iteration: int) -> None:
        self.number, self.iteration = number, iteration
        setattr(self, hook, self.send)

    def send(self, lightning: Any, trained: GRPOModule, *args: Any) -> None:
        if trained.iteration == self.iteration:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("number", "hook", "iteration", "saved"),
    [
        (signal.SIGTERM, "on_train_batch_start", 0, 1),  # inside an epoch
        (signal.SIGTERM, "on_train_batch_start", 1, 2),  # in the last iteration of one
        (signal.SIGUSR1, "on_train_batch_start", 2, 3),
        (signal.SIGTERM, "on_validation_batch_start", 2, 2),
        (signal.SIGTERM, "on_validation_batch_start", 4, 4),
    ],
)
def test_a_signal_saves_and_the_resumed_run_equals_the_straight_one(
    straight: dict[str, Any], tmp_path: Path, number: int, hook: str, iteration: int, saved: int
) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1)]
    with pytest.raises(SIGTERMException) as leaving:
        run(tmp_path, 2, Send(number, hook, iteration))
    assert leaving.value.code == 128 + number
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1)] == handlers
    assert state(tmp_path / "checkpoints" / "last.ckpt")["iteration"] == saved
    resumed = run(tmp_path, 2, resume=True)
    if saved == 2 and hook == "on_train_batch_start":
        del resumed["Summary"]  # the validation that the signal cut short is not made up for
        straight = {name: part for name, part in straight.items() if name != "Summary"}
    assert_same(resumed, straight)


def test_a_checkpoint_of_another_policy_is_refused(tmp_path: Path) -> None:
    run(tmp_path, 1)
    path = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    changed = dict(checkpoint["state_dict"])
    changed["policy.other"] = changed.pop("policy.bias")
    torch.save({**checkpoint, "state_dict": changed}, path)
    with pytest.raises(ValueError, match=r"the checkpoint lacks 1 of the policy's weights, such as policy.bias"):
        run(tmp_path, 2, resume=True)
    torch.save({**checkpoint, "state_dict": {**checkpoint["state_dict"], "policy.other": torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match=r"holds, but the policy does not train, 1 .* policy.other"):
        run(tmp_path, 2, resume=True)


def test_validating_a_checkpoint_uses_its_average(tmp_path: Path) -> None:
    saved = run(tmp_path, 2)
    trained = module(policy=GaussianPolicy(), metrics={"blue": MeanBlue()})
    seen = {}

    class Look(Callback):
        def on_validation_batch_end(self, *args: Any) -> None:
            seen["bias"] = trained.policy.bias.detach().clone()

    lightning = trainer(tmp_path, callbacks=[EMA(decay=0.8), Look()])
    lightning.validate(trained, Prompts(), ckpt_path=str(tmp_path / "checkpoints" / "last.ckpt"), weights_only=True)
    assert torch.equal(seen["bias"], saved["EMA"]["weights"]["bias"])
    assert torch.equal(trained.policy.bias, saved["state_dict"]["policy.bias"])


class Away(WeightedSum):
    """The usual reward, away at one of its calls."""

    def __init__(self, at: int) -> None:
        super().__init__({"red": Color(0), "green": Color(1)}, {"green": 0.5})
        self.left = at

    def __call__(self, samples: Samples) -> RewardOutput:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("my server is away")
        return super().__call__(samples)


# An epoch is two iterations, then two batches of validation.
@pytest.mark.parametrize(("call", "done"), [(2, 1), (3, 2), (4, 2), (5, 2), (6, 3), (7, 4), (8, 4)])
def test_a_run_whose_reward_fails_is_saved_up_to_there_and_goes_on_from_there(
    straight: dict[str, Any], tmp_path: Path, call: int, done: int
) -> None:
    with pytest.raises(RuntimeError, match="my server is away"):
        run(tmp_path, 2, reward=Away(call))
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert state(last)["iteration"] == done
    resumed = run(tmp_path, 2, resume=True)
    for name in ("state_dict", "optimizer_states", "lr_schedulers", "iteration", "EMA"):
        assert_same(resumed[name], straight[name], name)


def test_an_error_in_the_middle_of_an_update_leaves_the_last_whole_checkpoint(tmp_path: Path) -> None:
    class Fails(Callback):
        steps = 0

        def on_before_optimizer_step(self, *args: Any) -> None:
            self.steps += 1
            if self.steps == 4 + 4 + 2:  # the third iteration has taken one of its four steps
                raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        run(tmp_path, 2, Fails())
    assert state(tmp_path / "checkpoints" / "last.ckpt")["iteration"] == 2
