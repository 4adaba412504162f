"""What a run says when memory runs out."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

import realgen
from realgen.callbacks.out_of_memory import ALWAYS, NUM_SETTINGS, SETTINGS, START, OutOfMemory, ran_out_of_memory
from realgen.policies import LoRA
from tests.helpers.toy_grpo import Color, GaussianPolicy, Prompts, module, trainer

CUDA_WORDS = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB."


class Hungry(GaussianPolicy):
    """Has the settings of a diffusion policy, and runs out of memory in one of its methods."""

    def __init__(self, where: str, **settings: Any) -> None:
        super().__init__()
        self.where = where
        self.rollout_batch_size, self.samples_per_noise, self.prompts_per_chunk = 8, 4, None
        self.gradient_checkpointing, self.lora = False, LoRA(rank=4)
        self.height, self.width = 32, 48
        vars(self).update(settings)

    def roll(self, *args: Any) -> Any:
        self.eat("rollout")
        return super().roll(*args)

    def score(self, *args: Any) -> Any:
        self.eat("reference" if self.on_reference else "score")
        return super().score(*args)

    def sample(self, *args: Any, **how: Any) -> Any:
        self.eat("sample")
        return super().sample(*args, **how)

    def eat(self, place: str) -> None:
        if place == self.where:
            raise torch.OutOfMemoryError(CUDA_WORDS)


class HungryReward(Color):
    """Asks the host for more than it has."""

    def score(self, rollout: Any) -> torch.Tensor:
        return torch.empty(2**55)


class Before(Callback):
    """A run in which memory lacks before anything of the policy is called."""

    def on_fit_start(self, *args: Any) -> None:
        raise MemoryError


def message(folder: Path, policy: Any, *callbacks: Callback, **settings: Any) -> BaseException:
    lightning = trainer(folder, callbacks=[*callbacks, OutOfMemory()])
    with pytest.raises((RuntimeError, MemoryError)) as raised:
        lightning.fit(module(policy=policy, **settings), Prompts())
    return raised.value


def test_the_update_names_its_three_settings(tmp_path: Path) -> None:
    error = message(tmp_path, Hungry("score"))
    assert isinstance(error, torch.OutOfMemoryError)
    assert str(error) == (
        "out of memory in the update of iteration 0 (CUDA out of memory. Tried to allocate 2.00 GiB). Any of these "
        "lowers it: model.microbatch_size=1 (now 3); model.policy.gradient_checkpointing=true; "
        "trainer.strategy=configs/strategies/fsdp2.yaml on several GPUs."
    )
    assert error.__notes__ == [CUDA_WORDS]


def test_what_is_used_up_is_not_named(tmp_path: Path) -> None:
    policy = Hungry("score", gradient_checkpointing=True, rollout_batch_size=4)
    text = str(message(tmp_path, policy, microbatch_size=1))
    assert text.endswith(
        "lowers it: trainer.strategy=configs/strategies/fsdp2.yaml on several GPUs; smaller images "
        "(model.policy.height and width, now 32 x 48); model.group_size=2 (now 4)."
    )


@pytest.mark.parametrize(
    ("policy", "settings", "phase", "setting"),
    [
        (Hungry("rollout"), {}, "in the rollout of iteration 0", "model.policy.rollout_batch_size=4 (now 8)"),
        (Hungry("rollout"), {}, "in the rollout", "model.policy.prompts_per_chunk=1 (now all at once)"),
        (Hungry("sample"), {}, "in the validation", "model.policy.rollout_batch_size=4 (now 8)"),
        (Hungry(""), {"reward": HungryReward(0)}, "in the reward", "model.frozen_on_demand=true"),
        (
            *(Hungry(""), {"reward": HungryReward(0), "frozen_on_demand": True}),
            *("in the reward", "batch_size of the detectors under model.reward"),
        ),
    ],
)
def test_each_phase_is_told_from_the_others(
    policy: Any, settings: dict[str, Any], phase: str, setting: str, tmp_path: Path
) -> None:
    text = str(message(tmp_path, policy, **settings))
    assert f"out of memory {phase}" in text
    assert setting in text
    assert text.count(";") == NUM_SETTINGS - 1


def test_memory_that_lacks_at_the_start(tmp_path: Path) -> None:
    text = str(message(tmp_path, Hungry(""), Before()))
    assert text.startswith("out of memory while the policy was set up (MemoryError)")
    assert "model.frozen_on_demand=true" in text
    text = str(message(tmp_path, Hungry(""), Before(), frozen_on_demand=True))
    assert "model.policy.lora.rank=2 (now 4)" in text


def test_other_errors_stay_as_they_are(tmp_path: Path) -> None:
    class Broken(GaussianPolicy):
        def roll(self, *args: Any) -> Any:
            raise RuntimeError("a shape is wrong")

    assert str(message(tmp_path, Broken())) == "a shape is wrong"
    assert not ran_out_of_memory(OSError("not enough memory of last week"))


def phases_in_use() -> set[str]:
    """What the package calls its phases: the words of ``phase(...)`` and ``clock(...)``."""
    files = Path(realgen.__file__).parent.rglob("*.py")
    calls = [node for file in files for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    named = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in ("phase", "clock")]
    return {call.args[0].value for call in named if isinstance(call.args[0], ast.Constant)}


def test_every_phase_has_its_settings() -> None:
    assert phases_in_use() == set(SETTINGS) - {START}
    assert set(ALWAYS) <= {name for names in SETTINGS.values() for name in names}
