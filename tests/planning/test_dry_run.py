"""Rows, calls and stored latents of an iteration against the formulas of experiments/benchmarks/README.md."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from realgen.functional.flow_sde import FlowSDE
from realgen.objectives import GRPO, PEPG, DiffusionNFT, ForwardProcess, Objective
from realgen.planning.dry_run import CallKind, Counts, count_calls
from realgen.policies import DiffusionPolicy, ForwardDraws, Lag, LoRA, RandomWindow
from realgen.policies.backbones import SD3, Schedule, ZImage

PROMPTS, GROUP, STEPS, WINDOW = 2, 6, 8, 2


class Scheduled(SD3):
    """Knows its noise levels without files."""

    def schedule(self, num_steps: int, height: int, width: int) -> Schedule:
        sigmas = torch.linspace(1, 0, num_steps + 1)
        return Schedule(sigmas, sigmas[:-1] * 1000)


class ScheduledZImage(ZImage):
    """Has guidance above 0 already."""

    schedule = Scheduled.schedule


def counts(
    objective: Objective,
    *,
    start_min: int,
    start_max: int,
    guidance_scale: float = 2.0,
    kind: type[SD3 | ZImage] = Scheduled,
    **settings: int,
) -> Counts:
    backbone = kind("nobody/nothing", guidance_scale=guidance_scale)
    policy = DiffusionPolicy(
        backbone,
        transition=FlowSDE(0.7),
        step_window=RandomWindow(WINDOW, start_min, start_max),
        num_steps=settings.pop("num_steps", STEPS),
        rollout_batch_size=4,
        decode_batch_size=5,
        lora=LoRA(rank=2),
        **settings,
    )
    how = SimpleNamespace(group_size=GROUP, microbatch_size=5, inner_epochs=2, updates_per_epoch=1)
    return count_calls(policy, backbone, objective, how, prompts=PROMPTS)


def test_rows_follow_the_formulas() -> None:
    found = counts(GRPO(kl="velocity", kl_coef=0.1), start_min=1, start_max=5, samples_per_noise=3)
    noises, mean_start = GROUP // 3, 3
    sampled = PROMPTS * (noises * mean_start + GROUP * (STEPS - mean_start))
    scored = PROMPTS * GROUP * WINDOW
    assert {phase: found.evals(phase) for phase in ("rollout", "reference", "update")} == {
        "rollout": 2 * sampled,
        "reference": 2 * scored,
        "update": 2 * scored * 2,
    }
    assert (found.encoded, found.decoded, found.images, found.updates) == (PROMPTS, PROMPTS * GROUP, PROMPTS * GROUP, 2)
    assert found.decode_batch == 5
    assert found.largest_call[CallKind("rollout", True, False)] == 4
    assert found.graph_rows == 5 * WINDOW  # all rows of a microbatch wait for one backward pass
    latents, means, velocities = PROMPTS * GROUP * (WINDOW + 1), scored, scored
    assert found.stored_latents == latents + means + velocities + (means + velocities)  # the reference's too


def test_without_a_kl_penalty_the_reference_is_not_scored() -> None:
    found = counts(GRPO(kl_coef=0.0), start_min=0, start_max=0, guidance_scale=1.0)
    assert set(found.rows) == {CallKind("rollout", False, False), CallKind("update", False, False)}
    assert found.evals("rollout") == PROMPTS * GROUP * STEPS


def of_draws(objective: Objective, *, updates: int = 1, **draws: Any) -> Counts:
    backbone = Scheduled("nobody/nothing", guidance_scale=2.0)
    policy = DiffusionPolicy(
        backbone, draws=ForwardDraws(count=3, **draws), num_steps=STEPS, rollout_batch_size=4, lora=LoRA(rank=2)
    )
    how = SimpleNamespace(group_size=GROUP, microbatch_size=5, inner_epochs=updates, updates_per_epoch=1)
    return count_calls(policy, backbone, objective, how, prompts=PROMPTS)


def test_draws_are_counted_under_every_weights_that_score_them() -> None:
    images, guided = PROMPTS * GROUP, 2
    free = of_draws(PEPG(kl_coef=0.1))
    assert {phase: free.evals(phase) for phase in ("rollout", "reference", "lagged", "update")} == {
        "rollout": guided * images * STEPS,
        "reference": guided * images * 3,
        "lagged": 0,  # the update's own score is the old one
        "update": guided * images * 3,
    }
    assert free.stored_latents == images + 2 * images * 3  # finished latents; the reference's velocities and targets
    lagging = of_draws(DiffusionNFT(), lagged={"old": Lag()}, sampler="old")
    assert (lagging.evals("reference"), lagging.evals("lagged")) == (0, guided * images * 3)
    assert of_draws(PEPG(), updates=2).evals("lagged") == guided * images * 3
    both = of_draws(ForwardProcess(average_coef=1.0), updates=2, lagged={"ema": Lag()})
    assert both.evals("lagged") == 2 * guided * images * 3


def test_a_few_of_many_starts_have_the_mean_of_all() -> None:
    found = counts(GRPO(kl_coef=0.0), start_min=2, start_max=20, num_steps=30, samples_per_noise=3)
    mean_start = 11
    assert found.evals("rollout") == 2 * PROMPTS * (2 * mean_start + GROUP * (30 - mean_start))


@pytest.mark.parametrize("kind", [Scheduled, ScheduledZImage])
def test_without_guidance_in_the_window_its_rows_are_single(kind: type[SD3 | ZImage]) -> None:
    found = counts(GRPO(kl_coef=0.0), start_min=3, start_max=3, kind=kind, guided_window=False)
    outside, inside = PROMPTS * GROUP * (STEPS - WINDOW), PROMPTS * GROUP * WINDOW
    assert found.evals("rollout") == 2 * outside + inside
    assert found.evals("update") == 2 * inside  # two passes
