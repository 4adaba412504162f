from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from realgen.policies import Policy


class Half(Policy):
    """One trained and one frozen layer."""

    def load(self) -> None:
        self.trained, self.frozen = nn.Linear(2, 3), nn.Linear(3, 1).requires_grad_(False)

    def rollout_chunks(self, prompts, group_size, **how):
        return None

    def score(self, rollout, rows):
        return None

    @contextmanager
    def reference(self) -> Iterator[None]:
        yield

    def sample(self, prompts, seeds, *, progress=None):
        return None

    def export(self, directory):
        return directory


def test_only_what_is_trained_is_trainable() -> None:
    policy = Half()
    policy.load()
    assert set(policy.trainable_parameters()) == {"trained.weight", "trained.bias"}
    assert policy.device == torch.device("cpu")


def test_a_group_needs_a_sample() -> None:
    Half().check_group_size(1)
    with pytest.raises(ValueError, match="group_size must be at least 1, got 0"):
        Half().check_group_size(0)


def test_an_objective_that_the_policy_cannot_serve_is_refused_at_once(make_rewriter):
    from realgen.objectives import GRPO, GRPOGuard
    from tests.helpers.toy_grpo import module

    tokens, whole = make_rewriter(), make_rewriter(lora=None)
    cure = "gives only log_probs, engine_log_probs; for tokens take realgen.objectives.GRPO with kl k2 or k3, or GSPO"
    with pytest.raises(ValueError, match=rf"objective GRPOGuard needs gaussian from the policy's score .*; .* {cure}"):
        module(policy=tokens, objective=GRPOGuard())
    with pytest.raises(ValueError, match="objective GRPO needs velocity"):
        module(policy=tokens, objective=GRPO(0.2, 0.2, kl="velocity", kl_coef=0.1))
    penalty = GRPO(0.2, 0.2, kl="k3", kl_coef=0.1)
    with pytest.raises(ValueError, match=r"has a KL penalty .* PromptPolicy has no reference: set lora, or keep_"):
        module(policy=whole, objective=penalty)
    for policy in (tokens, make_rewriter(lora=None, keep_reference=True)):
        assert module(policy=policy, objective=penalty).objective is penalty
