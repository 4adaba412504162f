from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from realgen.callbacks import EMA
from realgen.callbacks.ema import averaged_weights
from tests.helpers.toy_grpo import GaussianPolicy, Prompts, module, trainer


def loaded(dtype: torch.dtype = torch.float32) -> GaussianPolicy:
    policy = GaussianPolicy(dtype=dtype)
    policy.load()
    return policy


def started(average: EMA, policy: GaussianPolicy) -> EMA:
    average.load_state_dict(
        {"updates": 0, "weights": {n: p.detach().clone() for n, p in policy.trainable_parameters().items()}}
    )
    return average


def test_the_average_has_its_closed_form() -> None:
    policy = loaded(torch.float64)
    average = started(EMA(decay=0.75, warmup=1), policy)
    with torch.no_grad():
        for value in (1.0, 2.0, 3.0):
            policy.bias.fill_(value)
            average.update(policy)
    expected = 0.75**3 * 0 + 0.25 * (0.75**2 * 1 + 0.75 * 2 + 3)
    assert average.weights["bias"].tolist() == pytest.approx([expected, expected])
    assert average.updates == 3


def test_the_warm_up_follows_its_formula() -> None:
    policy = loaded(torch.float64)
    average = started(EMA(decay=0.9, warmup=10), policy)
    expected = 0.0
    with torch.no_grad():
        for step in range(100):
            policy.bias.fill_(float(step))
            average.update(policy)
            decay = min(0.9, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * step
    assert float(average.weights["bias"][0]) == pytest.approx(expected)
    assert (1 + 99) / (10 + 99) > 0.9  # the last steps had the full decay


def test_it_is_called_once_per_update_and_keeps_out_of_training(tmp_path: Path) -> None:
    average = EMA(decay=0.5, warmup=1)
    ends = []

    class Follow(Callback):
        def on_train_batch_end(self, *args: object) -> None:
            ends.append(trained.policy.bias.detach().clone())

    trained = module()
    trainer(tmp_path, callbacks=[average, Follow()], limit_val_batches=0).fit(trained, Prompts())
    expected = torch.zeros(2)
    for bias in ends:
        expected = expected + 0.5 * (bias - expected)
    assert average.updates == len(ends) == 4
    torch.testing.assert_close(average.weights["bias"], expected)
    plain = module()
    trainer(tmp_path, limit_val_batches=0).fit(plain, Prompts())
    assert torch.equal(plain.policy.bias, trained.policy.bias)


def test_applied_swaps_and_gives_the_live_weights_back() -> None:
    policy = loaded()
    average = started(EMA(), policy)
    with torch.no_grad():
        policy.bias.fill_(5.0)
    with average.applied(policy):
        assert policy.bias.tolist() == [0, 0]
    assert policy.bias.tolist() == [5, 5]
    with pytest.raises(KeyError), average.applied(policy):
        raise KeyError
    assert policy.bias.tolist() == [5, 5]
    assert average.weights["bias"].tolist() == [0, 0]


def test_without_averages_applied_changes_nothing() -> None:
    policy = loaded()
    with EMA().applied(policy):
        assert policy.bias.tolist() == [0, 0]


def test_validation_sees_the_average_and_an_error_there_leaves_the_live_weights(tmp_path: Path) -> None:
    average = EMA(decay=0.9, warmup=1)
    trained = module()
    seen, live = [], []

    class Look(Callback):
        def on_train_batch_end(self, *args: object) -> None:
            live.append(trained.policy.bias.detach().clone())

        def on_validation_batch_start(self, *args: object) -> None:
            seen.append(trained.policy.bias.detach().clone())
            if len(seen) == 3:
                raise KeyError

    with pytest.raises(KeyError):
        trainer(tmp_path, callbacks=[average, Look()]).fit(trained, Prompts())
    assert not torch.equal(seen[0], live[1])
    torch.testing.assert_close(seen[0], 0.9 * (0.1 * live[0]) + 0.1 * live[1])
    assert torch.equal(trained.policy.bias, live[3])


def test_low_precision_weights_are_averaged_in_float32(tmp_path: Path) -> None:
    policy = GaussianPolicy(dtype=torch.bfloat16)
    trained = module(policy=policy, on_policy_tolerance=1.0)
    average = EMA()
    trainer(tmp_path, callbacks=[average], limit_val_batches=0).fit(trained, Prompts())
    assert {weight.dtype for weight in average.weights.values()} == {torch.float32}
    with average.applied(policy):
        assert policy.bias.dtype == torch.bfloat16


def test_averaged_weights_finds_the_trainer_s_average(tmp_path: Path) -> None:
    policy = loaded()
    average = started(EMA(), policy)
    with torch.no_grad():
        policy.bias.fill_(5.0)
    with averaged_weights(trainer(tmp_path, callbacks=[average]), policy):
        assert policy.bias.tolist() == [0, 0]
    with averaged_weights(trainer(tmp_path), policy):
        assert policy.bias.tolist() == [5, 5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay": 1.0}, "decay must be 0 to below 1, got 1.0"),
        ({"decay": -0.1}, "decay must be 0 to below 1, got -0.1"),
        ({"warmup": 0}, "warmup must be at least 1, got 0"),
    ],
)
def test_impossible_numbers_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EMA(**settings)
