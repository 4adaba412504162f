"""The watch tells a hack from a gain, and acts on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from realgen.callbacks import EMA, BestCheckpoint, Export, LastCheckpoint, RewardWatch, Summary
from realgen.objectives import GRPO
from realgen.policies.weight_copy import Lag, LaggedWeights
from tests.helpers.toy_grpo import GaussianPolicy, MeanBlue, Prompts, module, trainer

HIGHER = {"kid": False, "probe": True}


def seen(iteration: int, *, reward: float, kid: float, probe: float, seed: int = 0, noise: float = 0.02) -> dict:
    """A validation of 40 prompts; the noise is of the prompts and groups, and small against what was asked for."""
    rng = np.random.default_rng(seed)
    of_prompts = {str(n): 0.1 * rng.standard_normal() for n in range(40)}
    by_prompt = {
        name: {key: mean + own + noise * rng.standard_normal() for key, own in of_prompts.items()}
        for name, mean in (("reward", reward), ("probe", probe))
    }
    groups = kid + 0.01 * np.random.default_rng(7).standard_normal(40) + 0.1 * noise * rng.standard_normal(40)
    values = {"reward": reward, "kid": kid, "probe": probe}
    return {
        "iteration": iteration,
        "values": values,
        "by_prompt": by_prompt,
        "without_each": {"kid": (kid + groups).tolist()},
    }


BASE = seen(0, reward=0.3, kid=0.08, probe=0.1)


@pytest.mark.parametrize(
    ("now", "first", "words"),
    [
        ({"reward": 0.7, "kid": 0.04, "probe": 0.5}, True, None),
        ({"reward": 0.7, "kid": 0.08, "probe": 0.1}, True, "and none of kid, probe got better"),
        ({"reward": 0.7, "kid": 0.08, "probe": 0.1}, False, None),  # it need not get better for ever
        ({"reward": 0.7, "kid": 0.5, "probe": 0.5}, True, "kid got worse (0.08 to 0.500, change"),
        ({"reward": 0.7, "kid": 0.04, "probe": 0.0}, False, "probe got worse (0.100 to 0.000, change"),
        ({"reward": 0.32, "kid": 0.5, "probe": 0.0}, True, None),  # the reward has hardly moved
        ({"reward": 0.1, "kid": 0.5, "probe": 0.0}, True, None),
    ],
)
def test_it_is_an_alarm_only_if_the_reward_rose_and_the_measures_deny_it(
    now: dict, first: bool, words: str | None
) -> None:
    found = RewardWatch().judge(BASE, seen(10, **now, seed=1), HIGHER, first=first)
    if words is None:
        assert found == []
    else:
        assert len(found) == 1
        assert found[0].startswith("since iteration 0 the reward rose by 0.397, and ")
        assert words in found[0]


def test_the_prompts_that_moved_a_measure_most_are_named() -> None:
    now = seen(10, reward=0.7, kid=0.04, probe=0.0, seed=1)
    now["by_prompt"]["probe"]["17"] = -0.5
    assert "most at prompts 17, " in RewardWatch().judge(BASE, now, HIGHER, first=True)[0]


def test_by_chance_a_measure_gets_worse_as_rarely_as_was_asked_for() -> None:
    rng, higher, alarms = np.random.default_rng(0), {"gain": True, **{str(n): True for n in range(6)}}, 0
    for _ in range(400):
        sides = []
        for reward in (0.0, 1.0):
            without = {name: (reward + rng.standard_normal(40)).tolist() for name in higher}
            # A value's error is what the jackknife makes of values of unit spread: 39 / sqrt(40).
            values = {name: reward * (name == "gain") * 1e3 + 39 / 40**0.5 * rng.standard_normal() for name in higher}
            keys = {str(n): reward for n in range(40)}
            side = {"iteration": 0, "values": {**values, "reward": reward}, "without_each": without}
            sides.append({**side, "by_prompt": {"reward": keys}})
        alarms += bool(RewardWatch(false_alarms=0.05).judge(*sides, higher, first=True))
    assert 8 <= alarms <= 36  # 20 are expected, give or take 4.4


class Alarms(RewardWatch):
    """Finds a hack in every validation from an iteration on."""

    start = 4

    def judge(self, before: Any, after: Any, higher: Any, **how: Any) -> list[str]:
        self.how = how
        return ["it is hacked"] if after["iteration"] >= self.start else []


class Lagging(GaussianPolicy):
    """With weights that lag behind for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.behind = {"sampler": LaggedWeights(Lag(rate=1.0, most=0.9))}

    @property
    def lagged(self) -> dict[str, LaggedWeights]:
        return self.behind

    @property
    def sampler(self) -> str:
        return "sampler"


class Learner(Callback):
    """Stands for a detector that learns."""

    moves_reward, component = True, "omniaid"


def fit(folder: Path, watch: RewardWatch, *, epochs: int = 3, more: Any = None, **settings: Any) -> Any:
    trained, more = module(metrics={"blue": MeanBlue()}, **settings), more or []
    before = [each for each in more if isinstance(each, BestCheckpoint)]
    after = [each for each in more if not isinstance(each, BestCheckpoint)]
    saves = any(isinstance(each, LastCheckpoint) for each in more)
    callbacks = [EMA(), *before, Summary(), watch, *after]
    lightning = trainer(folder, callbacks=callbacks, max_epochs=epochs, enable_checkpointing=saves)
    lightning.validate(trained, Prompts(), verbose=False)
    lightning.fit(trained, Prompts())
    return trained, lightning


def test_an_alarm_is_told_with_what_to_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watch = Alarms()
    _, lightning = fit(tmp_path, watch)
    assert watch.alarms == [4, 6]
    told = "alarm at iteration %d, the reward%s may be hacked: it is hacked. raise kl_coef"
    assert f"{told % (4, '')} or lower the learning rate." in caplog.text
    fit(tmp_path, Alarms(), epochs=2, more=[best := BestCheckpoint("blue", "max"), Learner()])
    assert best.iteration == 2  # blue is always one half
    told = f"{told % (4, ' (by omniaid as it is now)')}, lower the learning rate, or take best.ckpt."
    assert told in caplog.text
    assert "callbacks.watch: omniaid learns, and a validation's reward is by it as it is then" in caplog.text
    assert lightning.callback_metrics["watch/alarms"] == 1  # of the iterations; the last alarm is behind them


def test_what_counts_as_a_rise_is_measured_by_the_first_validation(tmp_path: Path) -> None:
    now = seen(10, reward=0.4, kid=0.5, probe=0.5)
    assert RewardWatch().judge(BASE, now, HIGHER, first=False)
    assert not RewardWatch().judge(BASE, now, HIGHER, first=False, spread=0.3)  # it rose by a third of that
    watch = Alarms()
    watch.start = 99
    lightning = fit(tmp_path, watch)[1]
    (summary,) = [each for each in lightning.callbacks if isinstance(each, Summary)]
    first, best = ([*each["by_prompt"]["reward"].values()] for each in (summary.before, watch.best))
    assert watch.best["iteration"] > 0
    assert watch.how == {"first": False, "spread": pytest.approx(np.std(first), rel=1e-5)}
    assert np.std(first) != pytest.approx(np.std(best), rel=1e-3)


def test_stop_ends_the_fit(tmp_path: Path) -> None:
    assert fit(tmp_path, Alarms(action="stop"))[0].iteration == 4


def test_the_learning_rate_is_lowered_for_good(tmp_path: Path) -> None:
    plain = fit(tmp_path / "a", RewardWatch())[1].optimizers[0].param_groups[0]["lr"]
    lowered = fit(tmp_path / "b", Alarms(action="lower_lr", factor=0.5))[1].optimizers[0].param_groups[0]["lr"]
    assert lowered == plain / 4


def test_the_penalty_is_raised_and_is_so_still_when_a_run_goes_on(tmp_path: Path) -> None:
    watch = Alarms(action="raise_kl", factor=0.5)
    objective = GRPO(0.2, 0.2, kl="k3", kl_coef=0.01)
    fit(tmp_path, watch, objective=objective)
    assert objective.kl_coef == pytest.approx(0.04)
    again, fresh = RewardWatch(action="raise_kl"), GRPO(0.2, 0.2, kl="k3", kl_coef=0.01)
    owner, lightning = module(objective=fresh), trainer(tmp_path, callbacks=[Summary(), again])
    for _ in range(2):  # two fits
        again.setup(lightning, owner, "fit")
        again.load_state_dict(watch.state_dict())
        again.on_fit_start(lightning, owner)
    assert fresh.kl_coef == pytest.approx(0.04)
    assert again.alarms == [4, 6]


def test_rolling_back_puts_the_last_healthy_weights_back(tmp_path: Path) -> None:
    watch = Alarms(action="roll_back")
    trained, lightning = fit(tmp_path, watch, epochs=2)  # the alarm of iteration 4 is the last that happens
    assert watch.alarms == [4]
    healthy = watch.healthy.weights
    weights = dict(trained.policy.named_parameters())
    assert all(torch.equal(weights[name], weight) for name, weight in healthy.items())
    assert not lightning.optimizers[0].state
    average = next(callback for callback in lightning.callbacks if isinstance(callback, EMA))
    assert all(torch.equal(average.weights[name], weight) for name, weight in healthy.items())


def test_what_follows_the_weights_is_rolled_back_too(tmp_path: Path) -> None:
    """The first validation with an alarm is the last one, before which the weights are exported, and the best one."""
    watch, policy = Alarms(action="roll_back"), Lagging()
    watch.start = 2
    best = BestCheckpoint("blue", "max")
    fit(tmp_path, watch, epochs=1, more=[best, Export(), LastCheckpoint()], policy=policy)
    start = GaussianPolicy()
    start.load()
    assert watch.alarms == [2]
    assert (best.value, best.iteration, best.is_new) == (None, 0, False)
    assert not (tmp_path / "checkpoints" / "best.ckpt").exists()
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    exported = torch.load(tmp_path / "lora" / "w.pt", weights_only=True)
    for name, weight in start.trainable_parameters().items():
        for found in (policy.get_parameter(name), saved[f"policy.{name}"], exported[name]):
            assert torch.equal(found, weight)
        assert torch.equal(policy.behind["sampler"].weights[name], weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rise": -1.0}, "rise must be at least 0"),
        ({"false_alarms": 0.0}, "false_alarms must be above 0 and at most 0.5, got 0.0"),
        ({"false_alarms": 0.6}, "false_alarms must be above 0 and at most 0.5, got 0.6"),
        ({"factor": 1.0}, "factor must be above 0 and below 1, got 1.0"),
    ],
)
def test_numbers_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardWatch(**settings)


def test_what_the_action_needs_is_known_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="raise_kl needs an objective whose kl_coef is above 0"):
        fit(tmp_path, RewardWatch(action="raise_kl"))
    with pytest.raises(ValueError, match=r"callbacks.watch needs callbacks.summary"):
        trainer(tmp_path, callbacks=[RewardWatch()]).fit(module(), Prompts())
    with pytest.raises(ValueError, match=r"callbacks.watch must stand behind EMA, Summary among the callbacks"):
        trainer(tmp_path, callbacks=[RewardWatch(), EMA(), Summary()]).fit(module(), Prompts())
