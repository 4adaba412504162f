"""A run without a learning signal says so and why; an error of one that has diverged says that first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from realgen.callbacks import LastCheckpoint, LearningSignal
from realgen.modules import GRPOModule
from realgen.rewards.base import Reward
from realgen.types import Samples
from tests.helpers.toy_grpo import Color, GaussianPolicy, Prompts, module, trainer


class Scaled(Reward):
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def score(self, samples: Samples) -> Tensor:
        return samples.images[:, 0].mean((1, 2)) * self.scale


class Recovers(Color):
    """Constant for some calls."""

    calls = 0

    def score(self, samples: Samples) -> Tensor:
        self.calls += 1
        self.constant = self.calls <= 4
        return super().score(samples)


def fit(folder: Path, *callbacks: Callback, epochs: int = 4, **settings: Any) -> GRPOModule:
    trained = module(**settings)
    given = {"max_epochs": epochs, "limit_val_batches": 0, "callbacks": list(callbacks), "enable_checkpointing": True}
    trainer(folder, **given).fit(trained, Prompts())
    return trained


@pytest.mark.parametrize(
    ("reward", "cause"),
    [
        (Color(0, constant=True), "all samples of a group get the same reward (color 0.3 to 0.3)"),
        (Scaled(1e30), "squares of these rewards are beyond float32; scale them down (scaled "),
        (Color(0, failing=[0, 1, 2, 5, 6, 7]), "fewer than two samples of each group could be scored (color "),
    ],
)
def test_advantages_that_stay_zero_are_told_with_their_cause(
    tmp_path: Path, reward: Reward, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert fit(tmp_path, LearningSignal(warn_after=2), reward=reward).iteration == 8
    told = [message for message in caplog.messages if message.startswith("all advantages are zero since iteration 1 (")]
    assert [message.split("(")[1].split(" ")[0] for message in told] == ["2", "4", "8", "8"]  # doubling, and the end
    assert all(cause in message for message in told)


def test_a_run_that_recovers_is_told_once_and_not_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    signal = LearningSignal(warn_after=3, stop_after=5)
    assert fit(tmp_path, signal, reward=Recovers(0)).iteration == 8
    assert len([message for message in caplog.messages if "all advantages are zero" in message]) == 1
    assert signal.since is None


def test_a_run_is_ended_only_on_request(tmp_path: Path) -> None:
    assert fit(tmp_path, LearningSignal(stop_after=3), reward=Color(0, constant=True)).iteration < 8


def test_one_reward_that_teaches_is_enough(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(tmp_path, LearningSignal(warn_after=1))
    assert not [message for message in caplog.messages if "advantages" in message]


class Explode(Callback):
    """Multiplies the weights, as a learning rate far too high does."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Any, pl_module: GRPOModule, *args: Any) -> None:
        if pl_module.iteration == 3:
            for parameter in pl_module.policy.trainable_parameters().values():
                parameter.add_(1).mul_(self.factor)


@pytest.mark.parametrize("factor", [torch.nan, 1e38])
def test_divergence_is_named_before_what_it_shows_as(tmp_path: Path, factor: float) -> None:
    with pytest.raises((RuntimeError, ValueError)) as error:
        fit(tmp_path, LearningSignal(), Explode(factor), LastCheckpoint())
    message = str(error.value)
    assert message.startswith("the policy has diverged: ")
    assert "the trained weights' norm is " in message
    assert "at the start; learning rate 0.05" in message
    assert "It showed as: " in message
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(bool(weight.isfinite().all()) for weight in saved["state_dict"].values())


def test_weights_that_explode_are_told_while_the_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert fit(tmp_path, LearningSignal(warn_after=1), Explode(100.0), epochs=3).iteration == 6
    (told,) = [message for message in caplog.messages if "the trained weights' norm is" in message]
    assert told.endswith("at the start: is the learning rate too high?")


def test_an_error_of_a_sound_run_keeps_its_message(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^not one of the 8 samples"):
        fit(tmp_path, LearningSignal(), reward=Color(0, failing=range(8)))


def test_the_row_and_the_first_norm_are_in_the_checkpoint() -> None:
    signal, other = LearningSignal(), LearningSignal()
    signal.since, signal.first_norm = 4, 1.5
    other.load_state_dict(signal.state_dict())
    assert (other.since, other.first_norm) == (4, 1.5)


@pytest.mark.parametrize("setting", ["warn_after", "stop_after"])
def test_settings_are_checked(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be at least 1"):
        LearningSignal(**{setting: 0})


def test_a_policy_that_scores_nan_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the policy scores NaN"):
        fit(tmp_path, LearningSignal(), policy=GaussianPolicy(fault="nan"))
