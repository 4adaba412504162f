"""Draws of noise on finished latents: the ODE's own images, states and targets by their formula, lagged weights."""

from __future__ import annotations

import pytest
import torch

from realgen.functional import FlowSDE
from realgen.functional.matching import matching_error
from realgen.policies import AllSteps, ForwardDraws, Lag, LoRA
from realgen.policies.backbones.base import Schedule
from realgen.policies.forward_draws import DrawnStates
from realgen.policies.solvers import CachedVelocity, HigherOrderTail
from realgen.types import Rollout
from tests.helpers.tiny_pipelines import TINY, backbone_classes, module_of

PROMPTS = ["a red fox", "old harbour, film grain"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def roll(policy, group_size: int = 4, seed: int = 0, prompts: list[str] = PROMPTS, **how) -> Rollout:
    return policy.rollout(prompts, group_size, generator=generator(seed), **how)


@pytest.fixture
def make(make_policy):
    """Builds a loaded policy whose decisions are draws."""

    def made(draws: ForwardDraws | None = None, **settings):
        return make_policy(transition=None, step_window=None, draws=draws or ForwardDraws(), **settings)

    return made


def test_a_rollout_keeps_finished_latents_and_no_score(make) -> None:
    policy = make()
    rollout = roll(policy)
    assert rollout.sampled is None
    assert rollout.mask.shape == (8, 3)
    assert rollout.mask.all()
    assert set(rollout.policy_state) == {"latents", "sigma", "seeds"}
    assert rollout.policy_state["latents"].shape == (8, *policy.latent_shape)
    assert torch.equal(policy._decode(rollout.policy_state["latents"]), rollout.images)


def test_images_are_those_of_the_ode(make) -> None:
    # One prompt and one seed: the starting noise is the first that the generator gives, as in `sample`.
    policy = make()
    assert torch.equal(roll(policy, 1, 7, PROMPTS[:1]).images, policy.sample(PROMPTS[:1], [7]))


@pytest.mark.parametrize("solver", [CachedVelocity(2), HigherOrderTail(3)], ids=["cached", "higher order"])
def test_every_solver_draws_the_whole_rollout(make, solver) -> None:
    policy = make(solver=solver)
    before = policy.transformer_evals
    rollout = roll(policy)
    calls = 3  # steps 0, 2, 4 of five; or three steps of a higher order
    assert policy.transformer_evals - before == 8 * calls * 2  # with guidance
    assert rollout.images.isfinite().all()
    assert (rollout.images - roll(make()).images).abs().max() < 0.5
    assert policy.score(rollout, torch.arange(8)).log_probs.isfinite().all()


def test_states_and_targets_by_their_formula(make) -> None:
    policy = make(ForwardDraws(noise_levels="stratified", error="t")).double()
    for module in policy.backbone.frozen():
        module.double()
    rollout = roll(policy)
    rows = torch.tensor([6, 1, 3])
    score, state = policy.score(rollout, rows), rollout.policy_state
    for position, row in enumerate(rows.tolist()):
        source = torch.Generator().manual_seed(int(state["seeds"][row]))
        noise = torch.randn(3, *policy.latent_shape, generator=source).double()
        latent, sigma = state["latents"][row], state["sigma"][row].double()
        text = policy.backbone.encode_prompts([PROMPTS[row // 4]])
        for draw in range(3):
            noisy = (1 - sigma[draw]) * latent + sigma[draw] * noise[draw]
            velocity = policy.backbone.velocity(noisy[None], state["sigma"][row, draw][None] * 1000, text)[0]
            torch.testing.assert_close(score.velocity[position, draw], velocity, rtol=0, atol=1e-9)
            assert torch.equal(score.draw.target[position, draw], noise[draw] - latent)
            error = sigma[draw] ** 2 * (velocity - noise[draw] + latent).square().mean()
            assert float(score.log_probs[position, draw]) == pytest.approx(-error.item(), rel=1e-9)


def test_the_rollout_s_own_steps_see_the_rollout_s_own_times(make) -> None:
    policy = make(ForwardDraws(count=5))
    schedule = policy.schedule(5)
    rollout = roll(policy)
    assert {float(s) for s in rollout.policy_state["sigma"].unique()} == {float(s) for s in schedule.sigmas[:5]}
    states = DrawnStates(rollout.policy_state, schedule, "t")
    order = rollout.policy_state["sigma"].argsort(dim=1, descending=True).argsort(dim=1)  # of each draw, its step
    torch.testing.assert_close(states.schedule.timesteps, schedule.timesteps[order.flatten()], rtol=1e-6, atol=0)


@pytest.mark.parametrize("module", sorted(TINY))
def test_times_are_proportional_to_sigma_in_every_model(module: str, tiny) -> None:
    (kind,) = (each for each in backbone_classes() if module_of(each) == module)
    backbone = kind(tiny(module))
    backbone.load()
    sigmas, timesteps = backbone.schedule(7, 64, 64)
    assert isinstance(backbone.schedule(7, 64, 64), Schedule)
    torch.testing.assert_close(timesteps, sigmas[:-1] * (timesteps[0] / sigmas[0]), rtol=1e-6, atol=0)


def test_draws_of_a_group_are_shared_or_each_row_s_own(make) -> None:
    shared = roll(make(ForwardDraws(shared=True))).policy_state
    assert (shared["seeds"].view(2, 4) == shared["seeds"].view(2, 4)[:, :1]).all()
    assert (shared["sigma"].view(2, 4, 3) == shared["sigma"].view(2, 4, 3)[:, :1]).all()
    assert shared["seeds"][0] != shared["seeds"][4]
    assert len(roll(make()).policy_state["seeds"].unique()) == 8


def test_chunks_are_the_whole_to_the_bit(make) -> None:
    policy, prompts = make(rollout_batch_size=4, decode_batch_size=4), [*PROMPTS, "moon over grass"]
    whole = roll(policy, prompts=prompts)
    policy.prompts_per_chunk = 1
    joined = roll(policy, prompts=prompts)
    assert torch.equal(joined.images, whole.images)
    assert all(torch.equal(part, whole.policy_state[name]) for name, part in joined.policy_state.items())


def test_draws_without_guidance_are_half_the_rows(make) -> None:
    policy = make(guided_window=False)
    rollout, before = roll(policy), policy.transformer_evals
    policy.score(rollout, torch.arange(8))
    assert policy.transformer_evals - before == 8 * 3


def test_lagged_weights_sample_and_the_trained_ones_stay(make, stir) -> None:
    policy = make(ForwardDraws(lagged={"old": Lag(rate=1.0, most=0.75)}, sampler="old"))
    old = policy.lagged["old"]
    old.start(policy)
    before = roll(policy).images
    stir(policy)
    moved = {name: p.detach().clone() for name, p in policy.trainable_parameters().items()}
    assert not torch.equal(roll(policy).images, before)  # it does not lag yet, so the trained weights sample
    start = {name: weight.clone() for name, weight in old.weights.items()}
    policy.end_iteration(1)
    assert old.lags
    for name, weight in old.weights.items():
        torch.testing.assert_close(weight, 0.75 * start[name] + 0.25 * moved[name])
    sampled = roll(policy).images
    assert all(torch.equal(p, moved[name]) for name, p in policy.trainable_parameters().items())
    with torch.no_grad():
        for name, p in policy.trainable_parameters().items():
            p.copy_(old.weights[name])
    old.lags = False  # the trained weights are the copy now
    assert torch.equal(roll(policy).images, sampled)


def test_published_decay_types() -> None:
    assert [Lag(0, 0.0, 0.0).decay(t) for t in (1, 100)] == [0.0, 0.0]
    assert [Lag(0, 0.001, 0.5).decay(t) for t in (1, 100, 1000)] == [0.001, 0.1, 0.5]
    assert [Lag(75, 0.0075, 0.999).decay(t) for t in (75, 76, 1000)] == [0.0, 0.0075, 0.999]


def test_errors_match_the_named_weighting(make) -> None:
    policy = make(ForwardDraws(error="exact"))
    score = policy.score(roll(policy), torch.arange(8))
    assert torch.equal(score.log_probs, -matching_error(score.velocity, score.draw))
    assert score.draw.error == "exact"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"transition": FlowSDE()}, "draws need transition=null and step_window=null"),
        ({"step_window": AllSteps()}, "draws need transition=null and step_window=null"),
        ({"samples_per_noise": 2}, "samples_per_noise must be 1 with draws, got 2"),
        ({"draws": ForwardDraws(count=6)}, r"draws.count must be at most 5 with noise_levels='steps'.*got 6"),
        ({"draws": ForwardDraws(count=5, noisiest=0.99)}, "draws.count must be at most 4"),
        ({"draws": None}, "transition and step_window must be given, or else draws"),
    ],
)
def test_settings_that_do_not_fit_are_refused(make_policy, settings, message: str) -> None:
    defaults = {"transition": None, "step_window": None, "draws": ForwardDraws(), "lora": LoRA(rank=2)}
    with pytest.raises(ValueError, match=message):
        make_policy(**{**defaults, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "count must be at least 1"),
        ({"noisiest": 0.0}, "noisiest must be above 0"),
        ({"noise_levels": "logit_normal", "noisiest": 0.5}, "noisiest must be 1 with noise_levels='logit_normal'"),
        ({"sampler": "old"}, r"sampler must be null or one of lagged, \[\], got 'old'"),
    ],
)
def test_draws_out_of_range_are_refused(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ForwardDraws(**settings)


@pytest.mark.parametrize("settings", [{"flat": -1}, {"rate": -0.1}, {"most": 1.0}])
def test_lags_out_of_range_are_refused(settings) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Lag(**settings)
