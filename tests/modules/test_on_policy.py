from __future__ import annotations

from typing import Any

import pytest
import torch

from realgen.modules.on_policy import OnPolicyError
from realgen.modules.seeds import iteration_generator
from realgen.policies.base import Policy
from tests.helpers.toy_grpo import GaussianPolicy, first_update, update_of


def test_an_honest_policy_passes_at_tolerance_zero() -> None:
    assert float(first_update(GaussianPolicy(), tolerance=0.0).deviation) == 0


def test_the_deviation_is_the_largest_log_ratio_of_decisions_that_count() -> None:
    policy = GaussianPolicy()
    policy.load()
    rollout = policy.rollout(["a cat"], 2, generator=iteration_generator(0, 0, 0))
    rollout.sampled.log_probs[0, 0] += 0.25
    rollout.sampled.log_probs[1, 2] -= 100.0
    rollout.mask[1, 2] = False
    update = update_of(policy, rollout, tolerance=1.0)
    with pytest.warns(UserWarning, match="more than half of its clip range of 0.2"):
        update.gradients(torch.arange(2), policy, torch.Tensor.backward, first_update=True)
    assert float(update.deviation) == pytest.approx(0.25, abs=1e-6)


def shift(policy: Policy) -> None:
    with torch.no_grad():
        policy.bias += 0.01


@pytest.mark.parametrize(
    ("policy", "between", "cause"),
    [
        (GaussianPolicy(), shift, "the weights changed between the rollout and the first update"),
        (GaussianPolicy(dropout=0.5), None, "dropout is active in dropout"),
        (GaussianPolicy(fault="random"), None, "a layer of the policy is random"),
        (GaussianPolicy(stored=torch.bfloat16), None, "low precision: the rollout stores x in torch.bfloat16"),
        (GaussianPolicy(fault="conditioning"), None, "it sees another conditioning than sampling did"),
        (GaussianPolicy(fault="nan"), None, "the policy scores NaN or infinity"),
    ],
    ids=["weights", "dropout", "random", "precision", "conditioning", "nan"],
)
def test_each_fault_is_named(policy: Policy, between: Any, cause: str) -> None:
    with pytest.raises(OnPolicyError, match=cause) as error:
        first_update(policy, between=between)
    assert "on_policy_tolerance=1e-05" in str(error.value)


def test_autocast_is_named() -> None:
    update = first_update(GaussianPolicy())
    update.deviations[0] += 1.0
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(OnPolicyError, match="autocast is on for cpu"):
        update.gradients(torch.arange(4), update.policy, torch.Tensor.backward, first_update=True)


def test_low_precision_passes_under_a_tolerance_that_allows_it() -> None:
    update = first_update(GaussianPolicy(stored=torch.bfloat16), tolerance=1.0)
    assert 1e-4 < float(update.deviation) < 1.0


def test_dropout_in_eval_mode_is_no_fault() -> None:
    first_update(GaussianPolicy(dropout=0.5).eval(), tolerance=0.0)
