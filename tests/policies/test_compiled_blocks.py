"""Compiled blocks: the ratio stays 1, the numbers and names stay what they are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch

from realgen.policies import DiffusionPolicy, LoRA, RandomWindow
from realgen.policies.compiled_blocks import compile_blocks

PROMPTS = ["a red fox", "old harbour, film grain"]


def roll(policy: DiffusionPolicy) -> Any:
    return policy.rollout(PROMPTS, 2, generator=torch.Generator().manual_seed(0))


def test_blocks_alone_are_compiled_and_names_stay(make_policy: Callable[..., DiffusionPolicy]) -> None:
    plain, compiled = make_policy(), make_policy(compile_blocks=True)
    blocks = {id(block) for block in compiled.backbone.blocks()}
    assert {id(m) for m in compiled.modules() if m._compiled_call_impl is not None} == blocks
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    assert not any(m._compiled_call_impl for m in plain.modules())


def test_blocks_of_the_kept_reference_are_compiled_too(make_policy: Callable[..., DiffusionPolicy]) -> None:
    policy = make_policy(compile_blocks=True, lora=None, keep_reference=True)
    with policy.reference():
        reference: Any = policy.backbone.transformer
    assert reference is not policy.transformer
    assert all(block._compiled_call_impl is not None for block in reference.transformer_blocks)


def test_more_programs_than_pytorchs_own_limit_are_kept() -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with torch._dynamo.config.patch(recompile_limit=8):
        compile_blocks(layer, list(layer))
        assert torch._dynamo.config.recompile_limit >= 64


def test_a_machine_without_a_compiler_is_refused(
    make_policy: Callable[..., DiffusionPolicy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    policy = make_policy(load=False, compile_blocks=True)
    with pytest.raises(ValueError, match="compile_blocks needs a C\\+\\+ compiler, and there is no 'no-such-compiler'"):
        policy.load()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="PyTorch compiles for the CPU with g++, which is not here")
def test_compiled_the_ratio_of_the_first_update_is_1(
    make_policy: Callable[..., DiffusionPolicy], stir: Callable[[DiffusionPolicy], None]
) -> None:
    # One block and four rows in every call, so that two programs do: without gradient and with it.
    settings = {"guidance_scale": 1.0, "step_window": RandomWindow(2), "num_steps": 3, "lora": LoRA(2, 4.0, ["to_q"])}
    compiled, plain = make_policy(**settings), make_policy(**settings)
    compile_blocks(compiled.transformer, compiled.backbone.blocks()[:1])
    for policy in (compiled, plain):
        stir(policy)
    rollout, rows = roll(compiled), torch.tensor([3, 0])
    score, truth = compiled.score(rollout, rows), plain.score(rollout, rows)
    torch.testing.assert_close(score.log_probs, rollout.sampled.log_probs[rows], rtol=0, atol=1e-5)
    torch.testing.assert_close(score.log_probs, truth.log_probs, rtol=0, atol=1e-5)
    score.log_probs.sum().backward()
    truth.log_probs.sum().backward()
    for name, parameter in plain.trainable_parameters().items():
        torch.testing.assert_close(compiled.trainable_parameters()[name].grad, parameter.grad, rtol=1e-4, atol=1e-6)
    assert next(iter(torch._dynamo.utils.counters["stats"].values())) > 0  # something was compiled
