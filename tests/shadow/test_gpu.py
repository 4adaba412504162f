"""What a GPU alone can tell, for ``pytest -m gpu`` on a machine that has one; elsewhere the same on the shadow GPU.

The GPU's part has not been run yet.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import torch

from realgen.policies import DiffusionPolicy
from realgen.types import Rollout
from tests.helpers.shadow_device import GPU, shadow_device
from tests.helpers.tiny_pipelines import backbone_classes, module_of
from tests.policies.conftest import tiny as tiny  # the fixture
from tests.shadow.test_backbones import GROUP, MOST_WAITS, PROMPTS, policy_on

MOST_ROUNDING = 0.05
"""Of velocities in bfloat16 between calls of other sizes: the guard's tolerance."""

Waits = Callable[[], int]


@contextmanager
def shadow_gpu() -> Iterator[Waits]:
    with shadow_device() as traffic:
        yield lambda: len(traffic.waits())


@contextmanager
def real_gpu() -> Iterator[Waits]:
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield lambda: sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)
        finally:
            torch.cuda.set_sync_debug_mode(before)


MACHINES = [pytest.param(shadow_gpu, id="shadow"), pytest.param(real_gpu, id="cuda", marks=pytest.mark.gpu)]


def sd3(tiny: Callable[[str], str], **settings: Any) -> DiffusionPolicy:
    (backbone,) = (each for each in backbone_classes() if module_of(each) == "sd3")
    return policy_on(backbone, tiny("sd3"), guided=True, **settings)


def sampled(policy: DiffusionPolicy, **settings: Any) -> Rollout:
    policy.step_window.sample = lambda *_, **__: torch.tensor([0, 2])
    return policy.rollout(PROMPTS, GROUP, generator=torch.Generator().manual_seed(0), **settings)


@pytest.mark.parametrize("machine", MACHINES)
def test_rollout_and_score_in_float32_are_those_of_the_cpu(machine: Any, tiny: Callable[[str], str]) -> None:
    policy, rows = sd3(tiny, dtype="float32"), torch.arange(2 * GROUP)
    expected = sampled(policy)
    with machine(), torch.no_grad():
        policy.to(GPU)
        rollout = sampled(policy)
        score = policy.score(rollout, rows)
        torch.testing.assert_close(rollout.images.cpu(), expected.images, rtol=0, atol=1e-3)
        torch.testing.assert_close(score.log_probs.cpu(), rollout.sampled.log_probs.cpu(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("machine", "reduced"),
    [
        pytest.param(shadow_gpu, False, id="shadow"),
        *(pytest.param(real_gpu, reduced, id=f"cuda-{reduced=}", marks=pytest.mark.gpu) for reduced in (False, True)),
    ],
)
def test_calls_of_three_rows_round_velocities_of_six_by_less_than_the_guard_takes(
    machine: Any, reduced: bool, tiny: Callable[[str], str], record_property: Callable[[str, object], None]
) -> None:
    policy = sd3(tiny, rollout_batch_size=6, samples_per_noise=1)
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction
    matmul.allow_bf16_reduced_precision_reduction = reduced if reduced else (False, False)
    try:
        with machine(), torch.no_grad():
            policy.to(GPU)
            rollout = sampled(policy)
            policy.rollout_batch_size = 3
            old, new = rollout.sampled.velocity, policy.score(rollout, torch.arange(2 * GROUP)).velocity
            rounding = float((new - old).square().mean().sqrt() / old.square().mean().sqrt())
    finally:
        matmul.allow_bf16_reduced_precision_reduction = before
    record_property("rounding", rounding)
    assert rounding < MOST_ROUNDING


@pytest.mark.parametrize("machine", MACHINES)
def test_a_step_waits_seldom_inside_the_window_and_never_outside(machine: Any, tiny: Callable[[str], str]) -> None:
    policy, marks = sd3(tiny), list[int]()
    with machine() as waits:
        policy.to(GPU)
        sampled(policy, progress=lambda *_: marks.append(waits()))
    steps = [after - before for before, after in pairwise(marks)]
    assert max(steps[:3]) <= MOST_WAITS
    assert steps[3:] == [0], steps
