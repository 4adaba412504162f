"""Each speed-up against the loop without it: one sample, one step and one transformer row at a time, in float64."""

import math

import pytest
import torch

from realgen.policies import AllSteps, LoRA, RandomWindow
from realgen.types import Rollout

PROMPTS = ["a red fox", "old harbour", "moon over grass"]
GUIDANCE, NOISE_LEVEL, STEPS, WINDOW = 3.0, 0.7, 5, 2


def roll(policy, group_size: int = 4, seed: int = 0) -> Rollout:
    return policy.rollout(PROMPTS, group_size, generator=torch.Generator().manual_seed(seed))


def all_rows(rollout: Rollout) -> torch.Tensor:
    return torch.arange(len(rollout.images))


def velocity(stock, prompt: str, latents: torch.Tensor, step: int) -> torch.Tensor:
    """Guided velocity of one latent [C, h, w]; the text is embedded anew."""
    embeds, negative, pooled, negative_pooled = stock.encode_prompt(prompt, None, None, max_sequence_length=4)
    timestep = stock.scheduler.timesteps[step : step + 1]
    with_text = stock.transformer(latents[None], embeds, pooled, timestep).sample
    without = stock.transformer(latents[None], negative, negative_pooled, timestep).sample
    return (without + GUIDANCE * (with_text - without))[0]


def flow_sde(stock, latents: torch.Tensor, v: torch.Tensor, step: int) -> tuple[torch.Tensor, float]:
    """Mean and std as the Flow-GRPO paper writes them."""
    sigma, following, second = (float(stock.scheduler.sigmas[i]) for i in (step, step + 1, 1))
    dt = following - sigma
    s = NOISE_LEVEL * math.sqrt(sigma / (1 - (second if sigma == 1 else sigma)))
    mean = latents * (1 + s**2 / (2 * sigma) * dt) + v * (1 + s**2 * (1 - sigma) / (2 * sigma)) * dt
    return mean, s * math.sqrt(-dt)


def naive_decisions(stock, starts: list[int], first: torch.Tensor, noise: torch.Tensor, group_size: int):
    """Yields (row, decision, log-probability, velocity) of samples that all go their whole way alone."""
    for row in range(len(PROMPTS) * group_size):
        prompt, start = PROMPTS[row // group_size], starts[row // group_size]
        latents = first[row]
        for step in range(start + WINDOW):
            if step < start:
                with torch.no_grad():
                    dt = float(stock.scheduler.sigmas[step + 1]) - float(stock.scheduler.sigmas[step])
                    latents = latents + dt * velocity(stock, prompt, latents, step)
                continue
            v = velocity(stock, prompt, latents, step)
            mean, std = flow_sde(stock, latents, v, step)
            sample = (mean + std * noise[row, step - start]).detach()
            yield row, step - start, torch.distributions.Normal(mean, std).log_prob(sample).mean(), v
            latents = sample


def test_gradients_equal_the_naive_loops(make_policy, stock) -> None:
    policy = make_policy(
        guidance_scale=GUIDANCE, lora=None, step_window=RandomWindow(WINDOW), samples_per_noise=2, rollout_batch_size=5
    )
    policy.double()
    for module in policy.backbone.frozen():
        module.double()
    rollout = roll(policy)
    weights = torch.randn(12, WINDOW, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for rows in torch.randperm(12).split(5):
        score = policy.score(rollout, rows)
        loss = (score.log_probs * weights[rows]).sum() + (
            score.velocity.square().mean(dim=(2, 3, 4)) * weights[rows]
        ).sum()
        loss.backward()

    stock.to(torch.float64)
    stock.scheduler.set_timesteps(STEPS)
    source = torch.Generator().manual_seed(0)
    starts = RandomWindow(WINDOW).sample(3, STEPS, iteration=0, generator=source).tolist()
    assert len(set(starts)) > 1
    first = torch.randn(6, 4, 8, 8, generator=source).double().repeat_interleave(2, dim=0)
    noise = torch.randn(12, WINDOW, 4, 8, 8, generator=source).double()
    log_probs = torch.zeros(12, WINDOW, dtype=torch.float64)
    for row, decision, log_prob, v in naive_decisions(stock, starts, first, noise, 4):
        (weights[row, decision] * (log_prob + v.square().mean())).backward()
        log_probs[row, decision] = log_prob.detach()

    assert (rollout.sampled.log_probs - log_probs).abs().max() < 1e-9
    naive = dict(stock.transformer.named_parameters())
    assert len(naive) == len(policy.trainable_parameters())
    largest = max(parameter.grad.abs().max() for parameter in naive.values())
    for name, parameter in policy.transformer.named_parameters():
        difference = (parameter.grad - naive[name].grad).abs().max()
        assert difference <= 1e-9 * max(naive[name].grad.abs().max(), 1e-3 * largest), name


def test_samples_of_one_noise_share_their_first_latent(make_policy) -> None:
    first = roll(make_policy(samples_per_noise=2)).policy_state["latents"][:, 0].view(3, 2, 2, 4, 8, 8)
    assert torch.equal(first[:, :, 0], first[:, :, 1])
    assert not torch.equal(first[:, 0], first[:, 1])


@pytest.mark.parametrize("seed", range(3))
def test_sharing_equals_not_sharing(make_policy, seed: int) -> None:
    shared, alone = make_policy(samples_per_noise=2), make_policy()
    draw = shared._draw_noise

    def repeated(num_prompts: int, group_size: int, generator: torch.Generator):
        first, noise = draw(num_prompts, group_size, generator)
        return first.repeat_interleave(2, dim=0), noise

    alone._draw_noise = repeated
    left, right = roll(shared, seed=seed), roll(alone, seed=seed)
    torch.testing.assert_close(left.images, right.images, rtol=0, atol=1e-6)
    torch.testing.assert_close(left.sampled.log_probs, right.sampled.log_probs, rtol=0, atol=1e-6)
    torch.testing.assert_close(left.policy_state["latents"], right.policy_state["latents"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("guidance_scale", "rows"), [(1.0, 1), (3.0, 2)])
def test_transformer_evaluations_are_counted_and_saved(make_policy, guidance_scale: float, rows: int) -> None:
    policy = make_policy(guidance_scale=guidance_scale, samples_per_noise=4)
    calls = []
    policy.transformer.register_forward_pre_hook(
        lambda module, args, inputs: calls.append(len(inputs["hidden_states"])), with_kwargs=True
    )
    rollout = roll(policy, group_size=8)
    starts = rollout.policy_state["step_indices"][::8, 0].tolist()
    # k rows before the window, then G, for each prompt
    assert policy.transformer_evals == sum(calls) == rows * sum(start * 2 + (STEPS - start) * 8 for start in starts)
    policy.score(rollout, torch.arange(5))
    assert policy.transformer_evals == sum(calls)
    assert calls[-1] == rows * 5 * WINDOW
    policy = make_policy(guidance_scale=guidance_scale)
    roll(policy, group_size=8)
    assert policy.transformer_evals == rows * 3 * 8 * STEPS


def test_every_rank_makes_the_same_number_of_calls(make_policy) -> None:
    counts = set()
    for seed in range(4):  # ranks, whose windows start at different steps
        policy, calls = make_policy(samples_per_noise=4, rollout_batch_size=5), []
        policy.transformer.register_forward_pre_hook(lambda module, args, calls=calls: calls.append(1))
        roll(policy, seed=seed)
        counts.add(len(calls))
    assert counts == {STEPS * 3}  # 12 rows in chunks of at most 5


def test_chunks_change_nothing(make_policy) -> None:
    whole, chunked = (
        make_policy(samples_per_noise=2),
        make_policy(samples_per_noise=2, rollout_batch_size=3, decode_batch_size=1),
    )
    left, right = roll(whole), roll(chunked)
    torch.testing.assert_close(left.images, right.images, rtol=0, atol=1e-6)
    torch.testing.assert_close(left.sampled.log_probs, right.sampled.log_probs, rtol=0, atol=1e-6)
    rows = all_rows(left)
    torch.testing.assert_close(whole.score(left, rows).velocity, chunked.score(left, rows).velocity, rtol=0, atol=1e-5)


@pytest.mark.parametrize("lora", [LoRA(rank=4), None])
def test_gradient_checkpointing_changes_nothing(make_policy, stir, lora) -> None:
    gradients = []
    for checkpointing in (False, True):
        policy = make_policy(lora=lora, gradient_checkpointing=checkpointing, step_window=AllSteps()).double()
        stir(policy)
        rollout = roll(policy, group_size=1)
        assert policy.transformer.gradient_checkpointing == checkpointing
        policy.score(rollout, all_rows(rollout)).log_probs.sum().backward()
        gradients.append({name: parameter.grad for name, parameter in policy.trainable_parameters().items()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-12, atol=1e-12)
