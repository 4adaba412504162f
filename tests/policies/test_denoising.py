"""What is done outside the window: against one row at a time in float64, in rows paid, and in what stays exact."""

from collections.abc import Callable

import pytest
import torch

from realgen.policies import RandomWindow, SlidingWindow
from realgen.policies.solvers import CachedVelocity, Euler, Float8, HigherOrderTail, LowPrecision
from realgen.types import Rollout

PROMPTS = ["a red fox", "old harbour", "moon over grass"]
STEPS, WINDOW, GROUP, GUIDANCE, NOISE_LEVEL = 6, 2, 4, 3.0, 0.7
APPROXIMATE = {
    "cached": {"solver": CachedVelocity(3)},
    "tail": {"solver": HigherOrderTail(2)},
    "unipc": {"solver": HigherOrderTail(2, "UniPCMultistepScheduler")},
    "low_precision": {"solver": LowPrecision()},
    "float8": {"solver": Float8(16)},
    "guidance_free": {"guided_window": False},
    "guidance_free_cached": {"guided_window": False, "solver": CachedVelocity(2)},
}


@pytest.fixture
def make(make_policy) -> Callable:
    """Builds a policy with windows that start at 0 to 3 of 6 steps, so that some leave one step and some four."""

    def make(**settings):
        defaults = {"step_window": RandomWindow(WINDOW, start_max=3), "num_steps": STEPS, "guidance_scale": GUIDANCE}
        return make_policy(**{**defaults, **settings})

    return make


def roll(policy, seed: int = 0, **how) -> Rollout:
    return policy.rollout(PROMPTS, GROUP, generator=torch.Generator().manual_seed(seed), **how)


def count_rows(policy) -> list[tuple[int, bool]]:
    """Rows of each transformer call from here on, and whether it is under autocast."""
    calls = []
    policy.transformer.register_forward_pre_hook(
        lambda module, args, inputs: calls.append((len(inputs["hidden_states"]), torch.is_autocast_enabled("cpu"))),
        with_kwargs=True,
    )
    return calls


def naive(stock, starts: list[int], first: torch.Tensor, noise: torch.Tensor, *, every: int, tail: bool, guided: bool):
    """Every row alone: its path through the window, and its finished latents.

    ``every``: steps that one velocity serves for; ``tail``: one step finishes; ``guided``: inside too.
    """
    sigmas = stock.scheduler.sigmas.double()
    texts = [stock.encode_prompt(prompt, None, None, max_sequence_length=4) for prompt in PROMPTS]
    for row, latents in enumerate(first):
        (embeds, negative, pooled, negative_pooled), start = texts[row // GROUP], starts[row // GROUP]
        path = []
        for step in range(STEPS):
            inside, following = start <= step < start + WINDOW, step + 1
            if tail and step >= start + WINDOW:
                if step > start + WINDOW:
                    break
                following = STEPS
            timestep = stock.scheduler.timesteps[step : step + 1]
            if inside or step % every == 0:
                v = stock.transformer(latents[None], embeds, pooled, timestep).sample[0]
                if guided or not inside:
                    without = stock.transformer(latents[None], negative, negative_pooled, timestep).sample[0]
                    v = without + GUIDANCE * (v - without)
            sigma, dt = sigmas[step], sigmas[following] - sigmas[step]
            if not inside:
                latents = latents + dt * v
                continue
            path.append(latents)
            s = NOISE_LEVEL * (sigma / (1 - (sigmas[1] if sigma == 1 else sigma))).sqrt()
            mean = latents * (1 + s**2 / (2 * sigma) * dt) + v * (1 + s**2 * (1 - sigma) / (2 * sigma)) * dt
            latents = mean + s * (-dt).sqrt() * noise[row, step - start]
        yield torch.stack(path), latents


@pytest.mark.parametrize(
    ("settings", "how"),
    [
        ({"solver": CachedVelocity(2)}, {"every": 2, "tail": False, "guided": True}),
        ({"solver": HigherOrderTail(1)}, {"every": 1, "tail": True, "guided": True}),
        ({"guided_window": False}, {"every": 1, "tail": False, "guided": False}),
        ({"guided_window": False, "solver": CachedVelocity(3)}, {"every": 3, "tail": False, "guided": False}),
    ],
    ids=["cached", "tail", "guidance_free", "guidance_free_cached"],
)
@torch.no_grad()
def test_rows_go_where_they_would_go_alone(make, stock, settings, how) -> None:
    policy = make(samples_per_noise=2, rollout_batch_size=5, **settings).double()
    finished = []
    policy._decode = lambda latents: finished.append(latents) or torch.zeros(len(latents), 3, 16, 16)
    rollout = roll(policy)
    stock.to(torch.float64)
    stock.scheduler.set_timesteps(STEPS)
    source = torch.Generator().manual_seed(0)
    starts = policy.step_window.sample(3, STEPS, iteration=0, generator=source).tolist()
    assert len(set(starts)) > 1
    first = torch.randn(6, 4, 8, 8, generator=source).double().repeat_interleave(2, dim=0)
    noise = torch.randn(12, WINDOW, 4, 8, 8, generator=source).double()
    paths, ends = zip(*naive(stock, starts, first, noise, **how), strict=True)
    # Text is embedded in float32 by the one and in float64 by the other; diffusers' steps are float32.
    torch.testing.assert_close(rollout.policy_state["latents"][:, :WINDOW], torch.stack(paths), rtol=0, atol=2e-6)
    torch.testing.assert_close(finished[0], torch.stack(ends), rtol=0, atol=2e-6)


@pytest.mark.parametrize("settings", APPROXIMATE.values(), ids=APPROXIMATE)
def test_the_ratio_is_one_and_the_images_are_others(make, stir, settings) -> None:
    policy, exact = make(samples_per_noise=2, **settings), make(samples_per_noise=2)
    for each in (policy, exact):
        stir(each)
    rollout = roll(policy)
    score, sampled = policy.score(rollout, torch.arange(len(rollout.images))), rollout.sampled
    torch.testing.assert_close(score.log_probs.detach(), sampled.log_probs, rtol=0, atol=1e-6)
    torch.testing.assert_close(score.velocity.detach(), sampled.velocity, rtol=0, atol=1e-5)
    assert not torch.equal(rollout.images, roll(exact).images)
    assert torch.equal(policy.sample(PROMPTS, [0, 1, 2]), exact.sample(PROMPTS, [0, 1, 2]))


def rows_paid(settings: dict, start: int) -> int:
    """Transformer rows of one sample whose window starts there."""
    end = start + WINDOW
    match settings.get("solver"):
        case CachedVelocity(every=every):
            steps = [step for step in range(STEPS) if step % every == 0 or start <= step < end]
        case HigherOrderTail(num_tail_steps=most):
            steps = [*range(end), *[STEPS] * min(most, STEPS - end)]
        case _:
            steps = list(range(STEPS))
    free = not settings.get("guided_window", True)
    return sum(1 if free and start <= step < end else 2 for step in steps)


@pytest.mark.parametrize("settings", [{}, *APPROXIMATE.values()], ids=["exact", *APPROXIMATE])
def test_rows_are_paid_for_as_promised(make, settings) -> None:
    policy = make(**settings)
    calls = count_rows(policy)
    rollout = roll(policy)
    starts = rollout.policy_state["step_indices"][:, 0].tolist()
    assert policy.transformer_evals == sum(rows for rows, _ in calls) == sum(rows_paid(settings, s) for s in starts)
    policy.score(rollout, torch.arange(3))
    assert calls[-1][0] == 3 * WINDOW * (1 if settings.get("guided_window") is False else 2)
    assert policy.transformer_evals == sum(rows for rows, _ in calls)


def test_low_precision_stays_outside_the_window(make) -> None:
    policy = make(solver=LowPrecision(), step_window=SlidingWindow(WINDOW, interval=1))
    calls = count_rows(policy)
    roll(policy, iteration=2)
    assert [autocast for _, autocast in calls] == [True, True, False, False, True, True]


@pytest.mark.parametrize("settings", APPROXIMATE.values(), ids=APPROXIMATE)
def test_every_rank_makes_the_same_calls(make, monkeypatch: pytest.MonkeyPatch, settings) -> None:
    policy = make(samples_per_noise=2, rollout_batch_size=5, **settings)
    calls, counts = count_rows(policy), set()
    for starts in ([0, 0, 0], [3, 3, 3], [0, 1, 3]):  # ranks, whose windows start at different steps
        monkeypatch.setattr(policy.step_window, "sample", lambda *args, starts=starts, **how: torch.tensor(starts))
        alone = roll(policy).images
        calls.clear()
        with monkeypatch.context() as ranks:
            ranks.setattr("realgen.policies.denoising.world_size", lambda: 3)
            together = roll(policy).images
        tolerance = {LowPrecision: 5e-3, Float8: 5e-2}.get(type(policy.solver), 1e-5)  # a last bit of the type
        torch.testing.assert_close(together, alone, rtol=0, atol=tolerance)
        assert min(rows for rows, _ in calls) > 0
        counts.add(len(calls))
    assert len(counts) == 1


def test_steps_are_reported_with_the_tail(make) -> None:
    policy, told = make(solver=HigherOrderTail(2), step_window=RandomWindow(WINDOW, start_max=1)), []
    roll(policy, progress=lambda *report: told.append(report))
    assert told == [("rollout", done, 5) for done in range(1, 6)]  # windows end by step 3, two steps follow


def test_no_solver_is_eulers(make) -> None:
    assert type(make(load=False).solver) is Euler


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"guided_window": False, "guidance_scale": 1.0},
            "guided_window=false needs guidance .*: guidance_scale above 1",
        ),
        (
            {"solver": CachedVelocity(), "step_window": RandomWindow(6)},
            "solver CachedVelocity changes only steps outside the window, and step_window RandomWindow covers all 6",
        ),
        ({"solver": HigherOrderTail(5)}, "num_tail_steps must be at most 4, all that step_window RandomWindow leaves"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(make, settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(load=False, **settings)


def test_low_precision_must_be_lower(make) -> None:
    policy = make(solver=LowPrecision(), load=False)
    policy.backbone.dtype = torch.bfloat16
    with pytest.raises(ValueError, match=r"narrower type than the window, got dtype=torch\.bfloat16"):
        policy.load()
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match=r"computes in torch\.bfloat16 anyway"):
        roll(make(solver=LowPrecision()))
