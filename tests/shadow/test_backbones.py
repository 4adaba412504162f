"""Every backbone on the shadow GPU: rollout, reference, update and sample, and what passes between host and device."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

from realgen.functional.flow_sde import FlowSDE
from realgen.modules.background_rewards import BackgroundRewards
from realgen.modules.policy_update import PolicyUpdate, reference_score
from realgen.objectives import GRPOGuard
from realgen.policies import DiffusionPolicy, LoRA, RandomWindow
from realgen.policies.solvers import CachedVelocity, Float8, HigherOrderTail
from realgen.types import Rollout
from tests.helpers.shadow_device import GPU, Event, Traffic, shadow_device
from tests.helpers.tiny_pipelines import SIZE, TINY, backbone_classes, module_of
from tests.helpers.toy_grpo import Color
from tests.policies.conftest import tiny as tiny  # the fixture

STEPS, GROUP, PROMPTS = 5, 2, ["a red fox", "an old harbour at dawn"]
MOST_WAITS = 4
"""In one denoising step inside a window; outside there are none."""
OWN_WAITS = {"qwen_image": 3, "chroma": 2, "hidream": 2}
"""In any step, by diffusers: of two calls whose texts differ in length a mask, or a zero for each row; the size."""


def policy_on(backbone: type[Any], folder: str, *, guided: bool, **settings: Any) -> DiffusionPolicy:
    own = TINY[module_of(backbone)]
    how = own.guided if guided else own.settings
    policy = DiffusionPolicy(
        backbone(folder, **{"dtype": settings.pop("dtype", "bfloat16"), **how}),
        transition=FlowSDE(0.9),
        **{
            "step_window": RandomWindow(2, start_max=2),
            "num_steps": STEPS,
            "height": SIZE,
            "width": SIZE,
            "rollout_batch_size": 3,
            "decode_batch_size": 2,
            "gradient_checkpointing": True,
            "samples_per_noise": 2,
            "lora": LoRA(rank=4, alpha=8.0),
            **settings,
        },
    )
    policy.load()
    return policy


def steps_of(policy: DiffusionPolicy, traffic: Traffic) -> tuple[Rollout, list[list[Event]]]:
    """Sample with windows {0, 1} and {2, 3}; return the events of the steps 1 to 4."""
    marks: list[int] = []
    policy.step_window.sample = lambda *_, **__: torch.tensor([0, 2])
    rollout = policy.rollout(
        PROMPTS,
        GROUP,
        generator=torch.Generator().manual_seed(0),
        progress=lambda *_: marks.append(len(traffic.events)),
    )
    return rollout, [traffic.events[start:stop] for start, stop in pairwise(marks)]


def check_steps(steps: list[list[Event]], latent_bytes: int, own_waits: int = 0) -> None:
    for step, events in enumerate(steps, 1):
        waits = [f"{event.operation} at {event.where}" for event in events if event.waits]
        assert len(waits) <= (MOST_WAITS if step < 4 else own_waits), f"step {step}: {waits}"
        # Two latents of the tiny models are to them what a megabyte is to the big ones.
        large = [event for event in events if event.copied > 2 * latent_bytes]
        assert all("window_recorder" in event.where for event in large), large


@pytest.mark.parametrize(
    ("backbone", "guided"),
    [
        pytest.param(each, guided, marks=pytest.mark.slow if guided else [], id=f"{module_of(each)}-{guided=}")
        for each in backbone_classes()
        for guided in ((False, True) if module_of(each) in ("sd3", "flux") else (True,))  # guided: both kinds of calls
    ],
)
def test_an_iteration(backbone: type[Any], guided: bool, tiny: Callable[[str], str]) -> None:
    policy = policy_on(backbone, tiny(module_of(backbone)), guided=guided)
    objective = GRPOGuard(clip_low=1.0, clip_high=1.0, kl="velocity", kl_coef=4e-4)
    with shadow_device() as traffic:
        policy.to(GPU)
        rollout, steps = steps_of(policy, traffic)
        check_steps(steps, rollout.policy_state["latents"][0, 0].nbytes, OWN_WAITS.get(module_of(backbone), 0))
        if module_of(backbone) not in ("sd3", "flux"):  # what follows is the same for all, but for this
            policy.score(rollout, torch.tensor([0, 3])).log_probs.sum().backward()
            return
        with BackgroundRewards(Color(0)) as scoring:
            scoring.start(rollout)
            reference = reference_score(policy, objective, rollout, 1)
            advantages = objective.advantages(scoring.rewards()).flatten()
        settings = {"microbatch_size": 3, "tolerance": None, "skip_zero_advantages": True}
        update = PolicyUpdate(policy, objective, rollout, advantages, reference, **settings)
        weights = list(policy.trainable_parameters().values())
        optimizer = torch.optim.AdamW(weights, lr=1e-4)
        loss, _ = update.gradients(torch.randperm(4), policy, torch.Tensor.backward, first_update=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        images = policy.sample(PROMPTS, [1, 2])
        assert images.device == GPU
        assert bool(images.isfinite().all())


@pytest.mark.parametrize(
    "settings",
    [{"solver": CachedVelocity(2)}, {"solver": Float8(16)}, {"guided_window": False}],
    ids=["cached", "float8", "guidance-free"],
)
def test_other_ways_outside_the_window_wait_no_more(settings: dict[str, Any], tiny: Callable[[str], str]) -> None:
    (sd3,) = (each for each in backbone_classes() if module_of(each) == "sd3")
    policy = policy_on(sd3, tiny("sd3"), guided=True, **settings)
    with shadow_device() as traffic:
        policy.to(GPU)
        rollout, steps = steps_of(policy, traffic)
        check_steps(steps, rollout.policy_state["latents"][0, 0].nbytes)


def test_a_tail_of_higher_order_runs(tiny: Callable[[str], str]) -> None:
    (sd3,) = (each for each in backbone_classes() if module_of(each) == "sd3")
    policy = policy_on(sd3, tiny("sd3"), guided=True, solver=HigherOrderTail(2))
    with shadow_device() as traffic:
        policy.to(GPU)
        rollout, _ = steps_of(policy, traffic)
        assert bool(rollout.images.isfinite().all())
