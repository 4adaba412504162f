"""Every backbone, inside a policy, against the plain diffusers pipeline of the same directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from realgen.functional.flow_sde import FlowSDE
from realgen.policies import AllSteps, DiffusionPolicy, LoRA, RandomWindow
from realgen.policies.backbones import Backbone
from tests.helpers.tiny_pipelines import SIZE, TinyModel, read_stock

PROMPTS = ["a red fox", "old harbour, film grain", "moon"]
STEPS = 4

Make = Callable[..., DiffusionPolicy]


@pytest.fixture
def make_policy(kind: type[Backbone], model: TinyModel, directory: str) -> Make:
    """Builds a loaded policy on the tiny model."""

    def make_policy(
        *, guided: bool = False, pretrained: str = directory, dtype: str = "float32", **settings: Any
    ) -> DiffusionPolicy:
        defaults = {
            "transition": FlowSDE(0.7),
            "step_window": RandomWindow(1),
            "num_steps": STEPS,
            "height": SIZE,
            "width": SIZE,
            "lora": LoRA(rank=4, alpha=8.0),
        }
        backbone = kind(pretrained, dtype=dtype, **(model.guided if guided else model.settings))
        policy = DiffusionPolicy(backbone, **{**defaults, **settings})
        policy.load()
        return policy

    return make_policy


@pytest.fixture
def draw(model: TinyModel) -> Callable[..., torch.Tensor]:
    """Calls the pipeline with the settings that the backbone was given."""

    def draw(stock: Any, prompts: list[str], *, guided: bool = False, **settings: Any) -> torch.Tensor:
        scale = next(iter(model.guided))
        plain = {} if guided or not model.stock_guides else {scale: model.plain_scale}
        call = {**plain, **(model.guided if guided else model.settings)}
        negative = call.pop("negative_prompt", None)
        if negative is not None:
            call["negative_prompt"] = [negative] * len(prompts)
        call |= model.call
        size = {"height": SIZE, "width": SIZE, "num_inference_steps": STEPS, "output_type": "pt"}
        return stock(prompt=list(prompts), **size, **call, **settings).images

    return draw


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def roll(policy: DiffusionPolicy, group_size: int = 2) -> Any:
    return policy.rollout(PROMPTS, group_size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("guided", [False, True])
def test_without_noise_images_are_the_stock_pipelines(
    make_policy: Make, draw, directory: str, model: TinyModel, guided: bool
) -> None:
    if guided and not model.stock_guides:
        pytest.skip("this pipeline has no such guidance")
    policy = make_policy(guided=guided, transition=FlowSDE(0.0), step_window=AllSteps())
    stock = read_stock(directory)
    rollout = roll(policy)
    truth = draw(stock, rollout.row_prompts, guided=guided, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rollout.images, truth, rtol=0, atol=1e-5)
    images = policy.sample(PROMPTS, range(3))
    torch.testing.assert_close(images, draw(stock, PROMPTS, guided=guided, generator=generators(3)), rtol=0, atol=1e-5)
    assert images.std() > 0.01
    schedule = policy.backbone.schedule(STEPS, SIZE, SIZE)
    assert torch.equal(schedule.sigmas, stock.scheduler.sigmas)
    assert torch.equal(schedule.timesteps, stock.scheduler.timesteps)


@pytest.mark.parametrize(("guided", "dtype"), [(True, "float32"), (False, "bfloat16")])
def test_the_ratio_after_a_rollout_is_one(make_policy: Make, stir, guided: bool, dtype: str) -> None:
    policy = make_policy(guided=guided, dtype=dtype)
    stir(policy)
    rollout = roll(policy)
    rows = torch.arange(len(rollout.images))
    score = policy.score(rollout, rows)  # the same rows in one call: the very same numbers
    assert torch.equal((score.log_probs.detach() - rollout.sampled.log_probs).exp(), torch.ones(len(rows), 1))
    if dtype == "bfloat16":  # other calls round otherwise
        return
    parts = torch.cat([policy.score(rollout, part).log_probs.detach() for part in (rows[4:], rows[:4])])
    torch.testing.assert_close(parts.roll(-2, 0), rollout.sampled.log_probs, rtol=0, atol=1e-6)


def test_prompts_of_all_lengths_together_are_those_one_by_one(make_policy: Make) -> None:
    policy = make_policy(guided=True)
    together = policy.sample(PROMPTS, range(3))
    alone = torch.cat([policy.sample([prompt], [seed]) for seed, prompt in enumerate(PROMPTS)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 0.01


def count_with_gradient(calls: dict[DiffusionPolicy, int], policy: DiffusionPolicy, *_: Any) -> None:
    calls[policy] += torch.is_grad_enabled()


def gradients(policy: DiffusionPolicy) -> dict[str, Any]:
    rollout = roll(policy, 1)
    policy.score(rollout, torch.arange(3)).velocity.square().mean().backward()
    return {name: parameter.grad for name, parameter in policy.trainable_parameters().items()}


def test_gradient_checkpointing_changes_nothing_and_all_targets_train(make_policy: Make, stir) -> None:
    plain, checkpointed = make_policy(guided=True), make_policy(guided=True, gradient_checkpointing=True)
    for policy in (plain, checkpointed):
        stir(policy)
    calls = {plain: 0, checkpointed: 0}
    for policy in calls:
        policy.backbone.blocks()[-1].register_forward_pre_hook(partial(count_with_gradient, calls, policy))
    truth, found = gradients(plain), gradients(checkpointed)
    assert calls[checkpointed] == 2 * calls[plain] > 0  # once more in the backward pass
    assert truth.keys() == found.keys()
    for name, gradient in truth.items():
        assert gradient is not None, name  # data parallelism waits for every one
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-9)
    for target in plain.backbone.lora_targets:
        reached = [gradient for name, gradient in truth.items() if f".{target}.lora_" in name]
        assert any(gradient.abs().max() > 0 for gradient in reached), target


def test_exported_adapters_draw_the_same_in_plain_diffusers(
    make_policy: Make, stir, draw, directory: str, tmp_path
) -> None:
    policy = make_policy(lora=LoRA(rank=4, alpha=12.0))
    base = policy.sample(PROMPTS, range(3))
    stir(policy)
    images, path = policy.sample(PROMPTS, range(3)), policy.export(tmp_path)
    stock = read_stock(directory)
    stock.load_lora_weights(path, weight_name="pytorch_lora_weights.safetensors")
    torch.testing.assert_close(images, draw(stock, PROMPTS, generator=generators(3)), rtol=0, atol=1e-5)
    assert (images - base).abs().max() > 0.01


def test_an_exported_transformer_is_a_part_of_a_new_pretrained_folder(
    make_policy: Make, stir, draw, directory: str, tmp_path: Path
) -> None:
    policy = make_policy(lora=None)
    stir(policy)
    images = policy.sample(PROMPTS, range(3))
    folder = shutil.copytree(directory, tmp_path / "model")
    shutil.rmtree(folder / "transformer")
    assert policy.export(folder / "transformer") == folder / "transformer"
    truth = draw(read_stock(str(folder)), PROMPTS, generator=generators(3))
    torch.testing.assert_close(images, truth, rtol=0, atol=1e-5)
    # Not to the bit: weights that a file holds lie elsewhere in memory, and kernels round by that.
    again = make_policy(pretrained=str(folder)).sample(PROMPTS, range(3))
    torch.testing.assert_close(again, images, rtol=0, atol=1e-6)
