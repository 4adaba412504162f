"""The on-policy check of velocities, on random fields at the latent sizes of 64 and 1024 pixels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from realgen.functional.flow_sde import FlowSDE
from realgen.modules.on_policy import OnPolicyError
from realgen.modules.policy_update import PolicyUpdate
from realgen.objectives import GRPO, GRPOGuard
from realgen.policies import AllSteps, DiffusionPolicy
from realgen.policies.backbones.base import Backbone, Schedule
from realgen.types import Rollout

SIZES = {"64 px": (16, 8, 8), "1024 px": (16, 128, 128)}
BF16, FLOAT32 = torch.bfloat16, torch.float32


class Field(Backbone):
    """A random velocity for each prompt; scoring sees it with an error of a relative size."""

    lora_targets = ()

    def __init__(self, shape: tuple[int, ...], error: float, dtype: torch.dtype) -> None:
        super().__init__("field")
        self.shape, self.error, self.dtype = shape, error, dtype

    def load(self) -> None:
        self.transformer = nn.Linear(1, 1, dtype=self.dtype)
        nn.init.ones_(self.transformer.weight)

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        return self.shape

    def schedule(self, num_steps: int, height: int, width: int) -> Schedule:
        steps = torch.linspace(1, 0, num_steps + 1)
        return Schedule(steps, 1000 * steps[:-1])

    def encode(self, prompt: str) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(len(prompt))
        return {"field": torch.randn(self.shape, generator=generator)}

    def velocity(self, latents: Tensor, timesteps: Tensor, conditioning: Any) -> Tensor:
        velocity = 1.3 * self.transformer.weight.float() * conditioning["field"]
        if torch.is_grad_enabled():
            velocity = velocity + 1.3 * self.error * torch.randn(velocity.shape)
        return velocity

    def decode(self, latents: Tensor) -> Tensor:
        return latents.new_zeros(len(latents), 3, 1, 1)

    def blocks(self) -> list[nn.Module]:
        return []

    def frozen(self) -> list[nn.Module]:
        return []

    def save_adapter(self, *_: Any) -> None:
        """Write nothing."""

    def save_transformer(self, *_: Any) -> None:
        """Write nothing."""


def first_update(size: str, error: float, dtype: torch.dtype, objective: Any = None, **settings: Any) -> PolicyUpdate:
    policy = DiffusionPolicy(
        Field(SIZES[size], error, dtype), transition=FlowSDE(0.9), step_window=AllSteps(skip_last=True), num_steps=4
    )
    policy.load()
    rollout: Rollout = policy.rollout(["a fox"], 2, generator=torch.Generator().manual_seed(0))
    settings = {"microbatch_size": 2, "tolerance": None, "skip_zero_advantages": False, **settings}
    update = PolicyUpdate(policy, objective or GRPO(0.2, 0.2), rollout, torch.ones(2), None, **settings)
    update.gradients(torch.arange(2), policy, torch.Tensor.backward, first_update=True)
    return update


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("error", "dtype"), [(0.01, BF16), (0.045, BF16), (3e-5, FLOAT32)])
def test_rounding_passes_at_every_size(size: str, error: float, dtype: torch.dtype) -> None:
    update = first_update(size, error, dtype)
    assert float(update.deviation) == pytest.approx(error, rel=0.1)
    assert set(update.statistics) == {"ratio/on_policy_deviation", "ratio/on_policy_velocity"}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("error", "dtype"), [(0.06, BF16), (0.13, BF16), (3e-4, FLOAT32), (torch.nan, BF16)])
def test_a_fault_is_refused_at_every_size(size: str, error: float, dtype: torch.dtype) -> None:
    with pytest.raises(OnPolicyError, match="the relative difference of the velocities reaches") as refused:
        first_update(size, error, dtype)
    assert "low precision" not in str(refused.value)


def test_the_log_ratio_alone_would_not_have_seen_it() -> None:
    update = first_update("1024 px", 0.13, BF16, tolerance=1.0)
    assert float(update.deviations[0]) < 0.01 < 0.1 < float(update.deviations[1])


def test_rounding_that_the_clip_range_feels_is_told() -> None:
    with pytest.warns(UserWarning, match=r"more than half of its clip range of 4e-06: set model\.old_log_probs"):
        first_update("1024 px", 0.03, BF16, GRPOGuard(4e-6, 4e-6))


def test_ratios_to_a_new_score_are_one_where_scoring_repeats_itself() -> None:
    class Shifted(Field):
        """Scoring rounds otherwise than sampling, the same way each time."""

        inside = False

        def velocity(self, latents: Tensor, timesteps: Tensor, conditioning: Any) -> Tensor:
            factor = 1.02 if self.inside else 1.0
            return factor * self.transformer.weight.float() * conditioning["field"]

    policy = DiffusionPolicy(
        Shifted(SIZES["64 px"], 0.0, BF16), transition=FlowSDE(0.9), step_window=AllSteps(skip_last=True), num_steps=4
    )
    policy.load()
    rollout = policy.rollout(["a fox"], 2, generator=torch.Generator().manual_seed(0))
    policy.backbone.inside = True
    deviations = []
    for old in ("rollout", "rescored", "update"):
        update = PolicyUpdate(
            policy, GRPO(0.2, 0.2), rollout, torch.ones(2), None,
            microbatch_size=1, tolerance=None, skip_zero_advantages=False, old=old,
        )  # fmt: skip
        _, values = update.gradients(torch.arange(2), policy, torch.Tensor.backward, first_update=True)
        deviations.append(float(values["objective/ratio_max_deviation"]))
        assert float(update.deviation) == pytest.approx(0.02, rel=1e-3)  # the check still compares with the rollout
    assert deviations[0] > 0
    assert deviations[1:] == [0, 0]
