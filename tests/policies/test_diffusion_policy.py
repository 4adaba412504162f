import copy
import math
from pathlib import Path

import pytest
import torch

from realgen.functional import CPS, FlowSDE
from realgen.policies import AllSteps, LoRA, RandomWindow, SlidingWindow
from realgen.policies.backbones import SD3
from realgen.types import Rollout

PROMPTS = ["a red fox", "old harbour, film grain"]
SIZE = 16


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def roll(policy, group_size: int = 4, seed: int = 0, **how) -> Rollout:
    return policy.rollout(PROMPTS, group_size, generator=generator(seed), **how)


def all_rows(rollout: Rollout) -> torch.Tensor:
    return torch.arange(len(rollout.images))


def test_shapes_and_order(make_policy) -> None:
    rollout = roll(make_policy(step_window=RandomWindow(3), samples_per_noise=2))
    assert rollout.images.shape == (8, 3, SIZE, SIZE)
    assert rollout.images.min() >= 0
    assert rollout.images.max() <= 1
    assert rollout.sampled.log_probs.shape == rollout.mask.shape == (8, 3)
    assert rollout.mask.all()
    assert rollout.sampled.gaussian.mean.shape == rollout.sampled.velocity.shape == (8, 3, 4, 8, 8)
    assert rollout.policy_state["latents"].shape == (8, 4, 4, 8, 8)
    assert rollout.policy_state["latents"].dtype == torch.float32
    assert not any(tensor.requires_grad for tensor in rollout.policy_state.values())
    steps = rollout.policy_state["step_indices"]
    assert (steps.diff(dim=1) == 1).all()
    assert (steps.view(2, 4, 3) == steps.view(2, 4, 3)[:, :1]).all()  # a group shares its window


def test_the_same_generator_gives_the_same_rollout(make_policy) -> None:
    policy = make_policy()
    first, again, other = roll(policy, seed=1), roll(policy, seed=1), roll(policy, seed=2)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.sampled.log_probs, again.sampled.log_probs)
    assert not torch.equal(first.images, other.images)


def chunks_and_whole(policy, size: int) -> tuple[list[Rollout], Rollout]:
    """Three prompts in chunks, and at once; the texts are embedded once for both."""
    prompts = [*PROMPTS, "moon over grass"]
    whole = policy.rollout(prompts, 4, generator=generator())
    policy.prompts_per_chunk = size
    return list(policy.rollout_chunks(prompts, 4, generator=generator())), whole


def test_chunks_of_the_same_calls_are_the_whole_to_the_bit(make_policy) -> None:
    # Four rows a call are the four rows of one prompt in both, so every matrix product has the same operands.
    chunks, whole = chunks_and_whole(make_policy(rollout_batch_size=4, decode_batch_size=4), 1)
    assert [chunk.prompts for chunk in chunks] == [(prompt,) for prompt in whole.prompts]
    joined = Rollout.concatenate(chunks)
    assert torch.equal(joined.images, whole.images)
    assert torch.equal(joined.sampled.log_probs, whole.sampled.log_probs)
    assert torch.equal(joined.sampled.velocity, whole.sampled.velocity)
    assert torch.equal(joined.policy_state["latents"], whole.policy_state["latents"])
    assert torch.equal(joined.policy_state["step_indices"], whole.policy_state["step_indices"])
    assert torch.equal(joined.mask, whole.mask)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_chunks_of_other_calls_are_the_whole_but_for_rounding(make_policy, size: int) -> None:
    # Here a call has as many rows as its chunk, and matrix products of other sizes may sum in another order.
    policy = make_policy(samples_per_noise=2)
    chunks, whole = chunks_and_whole(policy, size)
    assert [len(chunk.prompts) for chunk in chunks] == {1: [1, 1, 1], 2: [2, 1], 5: [3]}[size]
    joined = policy.rollout(whole.prompts, 4, generator=generator())
    for rollout in (joined, Rollout.concatenate(chunks)):
        assert rollout.prompts == whole.prompts
        torch.testing.assert_close(rollout.images, whole.images, rtol=0, atol=1e-5)
        torch.testing.assert_close(rollout.sampled.log_probs, whole.sampled.log_probs, rtol=0, atol=1e-5)
        assert torch.equal(rollout.policy_state["step_indices"], whole.policy_state["step_indices"])
    score = policy.score(joined, torch.tensor([9, 2])).log_probs.detach()
    torch.testing.assert_close(score, whole.sampled.log_probs[[9, 2]], rtol=0, atol=1e-5)


def test_a_chunk_is_sampled_when_it_is_asked_for(make_policy) -> None:
    policy = make_policy(prompts_per_chunk=1)
    told = []

    def progress(*report):
        return told.append(report)

    chunks = policy.rollout_chunks(PROMPTS, 1, generator=generator(), progress=progress)
    next(chunks)
    assert told == [("rollout", step, 10) for step in range(1, 6)]
    next(chunks)
    assert told[5:] == [("rollout", step, 10) for step in range(6, 11)]


def test_the_global_generator_is_neither_read_nor_moved(make_policy) -> None:
    policy = make_policy()
    first = roll(policy)
    torch.manual_seed(17)
    before = torch.get_rng_state()
    assert torch.equal(roll(policy).images, first.images)
    policy.score(first, all_rows(first))
    policy.sample(PROMPTS, [0, 1])
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_is_float32_whatever_the_trainers_precision(make_policy) -> None:
    policy = make_policy(guidance_scale=1.0, samples_per_noise=2)
    rollout, images = roll(policy), policy.sample(PROMPTS, [0, 1])
    torch.set_default_dtype(torch.bfloat16)  # as a trainer does with precision "bf16-true"
    try:
        halved, drawn = roll(policy), policy.sample(PROMPTS, [0, 1])
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(halved.policy_state["latents"], rollout.policy_state["latents"])
    assert torch.equal(drawn, images)


def test_windows_vary_over_rollouts_and_follow_the_iteration(make_policy) -> None:
    policy = make_policy(step_window=RandomWindow(1))
    windows = {tuple(roll(policy, 1, seed).policy_state["step_indices"][:, 0].tolist()) for seed in range(8)}
    assert len(windows) > 3
    policy = make_policy(step_window=SlidingWindow(2, interval=2))
    seen = []
    for iteration in range(6):
        seen.append(roll(policy, 1, iteration=iteration).policy_state["step_indices"][0].tolist())
    assert seen == [[0, 1], [0, 1], [1, 2], [1, 2], [2, 3], [2, 3]]


def test_log_probs_are_those_of_the_noise_that_was_drawn(make_policy) -> None:
    rollout = roll(make_policy(step_window=RandomWindow(2)))
    source = generator()
    RandomWindow(2).sample(2, 5, iteration=0, generator=source)
    torch.randn(8, 4, 8, 8, generator=source)
    noise = torch.randn(8, 2, 4, 8, 8, generator=source)
    gaussian = rollout.sampled.gaussian
    truth = -noise.square().mean(dim=(2, 3, 4)) / 2 - gaussian.std.log() - math.log(2 * math.pi) / 2
    torch.testing.assert_close(rollout.sampled.log_probs, truth, rtol=0, atol=2e-6)
    reached = gaussian.mean + gaussian.std[..., None, None, None] * noise
    torch.testing.assert_close(rollout.policy_state["latents"][:, 1:], reached, rtol=0, atol=1e-6)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("lora", [LoRA(rank=4), None])
def test_right_after_the_rollout_the_score_is_the_rollouts(make_policy, stir, guidance_scale, lora) -> None:
    policy = make_policy(guidance_scale=guidance_scale, lora=lora, samples_per_noise=2, step_window=AllSteps())
    stir(policy)
    rollout = roll(policy)
    score, sampled = policy.score(rollout, all_rows(rollout)), rollout.sampled
    assert score.log_probs.requires_grad
    torch.testing.assert_close(score.log_probs.detach(), sampled.log_probs, rtol=0, atol=1e-6)
    torch.testing.assert_close(score.velocity.detach(), sampled.velocity, rtol=0, atol=1e-5)
    torch.testing.assert_close(score.gaussian.mean.detach(), sampled.gaussian.mean, rtol=0, atol=1e-5)
    assert torch.equal(score.gaussian.std, sampled.gaussian.std)
    assert torch.equal(score.gaussian.step_size, sampled.gaussian.step_size)
    assert (score.gaussian.step_size > 0).all()


def test_rows_are_scored_in_the_order_asked_for(make_policy) -> None:
    policy = make_policy()
    rollout = roll(policy)
    rows = torch.tensor([6, 1, 3])
    score = policy.score(rollout, rows)
    torch.testing.assert_close(score.log_probs, rollout.sampled.log_probs[rows], rtol=0, atol=1e-6)
    torch.testing.assert_close(score.gaussian.mean, rollout.sampled.gaussian.mean[rows], rtol=0, atol=1e-5)


def test_the_transformer_stays_in_eval_mode(make_policy) -> None:
    policy = make_policy()
    policy.train()
    assert policy.training
    assert not any(module.training for module in policy.transformer.modules())


def test_without_noise_a_rollout_is_the_stock_pipelines_drawing(make_policy, stock) -> None:
    for guidance_scale in (1.0, 3.0):
        policy = make_policy(guidance_scale=guidance_scale, transition=FlowSDE(0.0), step_window=AllSteps())
        rollout = roll(policy, 2)
        latents = torch.randn(4, 4, 8, 8, generator=generator())
        truth = draw(stock, rollout.row_prompts, guidance_scale=guidance_scale, latents=latents)
        torch.testing.assert_close(rollout.images, truth, rtol=0, atol=1e-5)
        assert not rollout.mask.any()
        assert rollout.sampled.log_probs.count_nonzero() == 0


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_samples_are_the_stock_pipelines(make_policy, stock, guidance_scale) -> None:
    policy = make_policy(guidance_scale=guidance_scale, eval_num_steps=7, rollout_batch_size=2, decode_batch_size=1)
    images = policy.sample([*PROMPTS, PROMPTS[0]], [3, 4, 5])
    sources = [generator(seed) for seed in (3, 4, 5)]
    truth = draw(stock, [*PROMPTS, PROMPTS[0]], guidance_scale=guidance_scale, num_inference_steps=7, generator=sources)
    torch.testing.assert_close(images, truth, rtol=0, atol=1e-5)
    assert (images[0] - images[2]).abs().max() > 0.01


def draw(pipeline, prompts, *, guidance_scale, num_inference_steps=5, **settings) -> torch.Tensor:
    return pipeline(
        prompts,
        height=SIZE,
        width=SIZE,
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
        max_sequence_length=4,
        output_type="pt",
        **settings,
    ).images


def test_seeds_must_match_prompts(make_policy) -> None:
    with pytest.raises(ValueError, match="seeds must be as many as prompts, 2, got 1"):
        make_policy().sample(PROMPTS, [0])


def test_adapters_off_is_the_base_model(make_policy, stir) -> None:
    policy = make_policy()
    rollout = roll(policy)
    rows, trained = all_rows(rollout), policy.trainable_parameters().keys()
    stir(policy)
    changed = policy.score(rollout, rows).velocity
    with policy.reference():
        assert torch.equal(policy.score(rollout, rows).velocity, make_policy(lora=None).score(rollout, rows).velocity)
    assert (changed - rollout.sampled.velocity).abs().max() > 1e-3
    assert policy.trainable_parameters().keys() == trained
    with pytest.raises(KeyError, match="inside"), policy.reference():
        raise KeyError("inside")
    assert torch.equal(policy.score(rollout, rows).velocity, changed)


def test_a_kept_copy_is_the_reference_of_full_fine_tuning(make_policy, stir) -> None:
    policy = make_policy(lora=None, keep_reference=True)
    rollout = roll(policy)
    rows = all_rows(rollout)
    before = policy.score(rollout, rows).velocity
    stir(policy)
    changed = policy.score(rollout, rows).velocity
    with policy.reference():
        score = policy.score(rollout, rows)
        assert torch.equal(score.velocity, before)
        assert not score.velocity.requires_grad
    assert torch.equal(policy.score(rollout, rows).velocity, changed)
    assert len(policy.state_dict()) == len(make_policy(lora=None).state_dict())


def test_full_fine_tuning_without_a_copy_has_no_reference(make_policy) -> None:
    with pytest.raises(ValueError, match="the policy has no reference: set lora, or keep_reference=true"):
        make_policy(lora=None).reference().__enter__()


def test_the_state_dict_holds_the_transformer_alone(make_policy) -> None:
    policy = make_policy()
    assert all(name.startswith("transformer.") for name in policy.state_dict())
    assert all("lora_" in name for name in policy.trainable_parameters())
    assert len(make_policy(lora=None).trainable_parameters()) == len(
        list(policy.backbone.transformer.parameters())
    ) - len(policy.trainable_parameters())


def test_the_backbone_chooses_what_adapters_change(make_policy) -> None:
    adapted = {name.split(".lora_")[0].split(".attn.")[1] for name in make_policy().trainable_parameters()}
    assert adapted == set(SD3.lora_targets)
    own = make_policy(lora=LoRA(rank=2, targets=["to_q"])).trainable_parameters()
    assert {name.split(".lora_")[0].split(".attn.")[1] for name in own} == {"to_q"}


def test_loading_twice_changes_nothing(make_policy, stir) -> None:
    policy = make_policy()
    stir(policy)
    before = copy.deepcopy(policy.state_dict())
    policy.load()
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_adapters_are_exported_for_the_stock_pipeline(make_policy, stir, stock, tmp_path: Path) -> None:
    policy = make_policy(lora=LoRA(rank=4, alpha=12.0))
    base = policy.sample(PROMPTS, [0, 1])
    stir(policy)
    images = policy.sample(PROMPTS, [0, 1])
    path = policy.export(tmp_path / "lora")
    assert [file.name for file in path.iterdir()] == ["pytorch_lora_weights.safetensors"]
    stock.load_lora_weights(path, weight_name="pytorch_lora_weights.safetensors")
    truth = draw(stock, PROMPTS, guidance_scale=3.0, generator=[generator(0), generator(1)])
    torch.testing.assert_close(images, truth, rtol=0, atol=1e-5)
    assert (images - base).abs().max() > 0.01


def test_a_whole_transformer_is_exported_for_diffusers(make_policy, stir, tmp_path: Path) -> None:
    from diffusers import SD3Transformer2DModel

    policy = make_policy(lora=None)
    stir(policy)
    exported = SD3Transformer2DModel.from_pretrained(policy.export(tmp_path)).state_dict()
    assert exported.keys() == policy.transformer.state_dict().keys()
    assert all(torch.equal(value, exported[name]) for name, value in policy.transformer.state_dict().items())


def test_progress_is_told_step_by_step(make_policy) -> None:
    policy, told = make_policy(eval_num_steps=2), []

    def progress(*report):
        return told.append(report)

    roll(policy, 1, progress=progress)
    policy.sample(PROMPTS, [0, 0], progress=progress)
    assert told == [("rollout", step, 5) for step in range(1, 6)] + [("sample", 1, 2), ("sample", 2, 2)]


def test_an_update_under_autocast_reaches_the_next_score(make_policy, stir) -> None:
    # a training step is one autocast context, whose cache of cast weights would outlive the optimizer's step
    policy = make_policy()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rollout = roll(policy)
        before = policy.score(rollout, all_rows(rollout))
        before.log_probs.sum().backward()
        stir(policy)
        after = policy.score(rollout, all_rows(rollout))
    assert all(parameter.grad is not None for parameter in policy.trainable_parameters().values())
    assert rollout.policy_state["latents"].dtype == before.log_probs.dtype == torch.float32
    assert torch.equal(before.log_probs.detach(), rollout.sampled.log_probs)
    assert (after.velocity - before.velocity).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"eval_num_steps": 0}, "eval_num_steps must be at least 1, got 0"),
        ({"samples_per_noise": 0}, "samples_per_noise must be at least 1, got 0"),
        ({"decode_batch_size": 0}, "decode_batch_size must be at least 1, got 0"),
        ({"prompts_per_chunk": 0}, "prompts_per_chunk must be at least 1, got 0"),
        ({"rollout_batch_size": 2, "samples_per_noise": 3}, "must be at least samples_per_noise=3, got 2"),
        ({"rollout_batch_size": 0}, "must be at least samples_per_noise=1, got 0"),
        ({"step_window": RandomWindow(6)}, "RandomWindow covers 6 steps; it must cover 1 to num_steps=5"),
        ({"keep_reference": True}, "keep_reference is for lora=null"),
    ],
)
def test_impossible_numbers_are_refused_before_weights_are_read(make_policy, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_policy(load=False, **settings)


def test_a_group_must_divide_into_noises(make_policy) -> None:
    policy = make_policy(load=False, samples_per_noise=3)
    policy.check_group_size(6)
    with pytest.raises(ValueError, match="samples_per_noise=3 must divide group_size, got 4"):
        policy.check_group_size(4)
    with pytest.raises(ValueError, match="samples_per_noise=3 must divide group_size, got 4"):
        roll(policy)


def test_a_size_that_the_model_cannot_draw_is_refused(make_policy) -> None:
    with pytest.raises(ValueError, match=r"height must be a multiple of 4 for .*, got 18"):
        make_policy(height=18)


def test_a_step_without_noise_may_not_be_trained(make_policy) -> None:
    message = r"step_window may cover steps \[4\] of 5, to which transition CPS adds no noise"
    with pytest.raises(ValueError, match=message):
        make_policy(transition=CPS(), step_window=AllSteps())
    rollout = roll(make_policy(transition=CPS(), step_window=AllSteps(skip_last=True)))
    assert rollout.mask.all()
