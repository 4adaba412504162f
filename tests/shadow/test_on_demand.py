"""Frozen networks that wait on the CPU, on the shadow GPU: where they compute, and what is copied for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from realgen.modules.background_rewards import BackgroundRewards
from realgen.modules.policy_module import wait_on_cpu
from realgen.rewards import Realism
from tests.helpers.shadow_device import GPU, ShadowTensor, shadow_device
from tests.helpers.tiny_pipelines import backbone_classes, module_of
from tests.helpers.toy_detector import ColorDetector
from tests.policies.conftest import tiny as tiny  # the fixture
from tests.shadow.test_backbones import policy_on

PROMPTS = ["a red fox", "an old harbour at dawn", "fox"]


def on_gpu(network: nn.Module) -> set[bool]:
    return {isinstance(weight, ShadowTensor) for weight in network.parameters()}


def size(*networks: nn.Module) -> int:
    return sum(tensor.nbytes for network in networks for tensor in (*network.parameters(), *network.buffers()))


@pytest.mark.parametrize(
    "backbone",  # of several text encoders, of two, and with the VAE of a video model: the others are made as these are
    [each for each in backbone_classes() if module_of(each) in ("sd3", "flux", "qwen_image")],
)
def test_each_part_computes_on_the_gpu_and_waits_on_the_cpu(backbone: type[Any], tiny: Callable[[str], str]) -> None:
    guided = module_of(backbone) == "sd3"
    policy = policy_on(backbone, tiny(module_of(backbone)), guided=guided, prompts_per_chunk=1, samples_per_noise=1)
    detector = ColorDetector()
    reward = Realism(detector)
    wait_on_cpu(policy, reward)
    parts = policy.backbone.frozen()
    with torch.no_grad():
        expected = policy.rollout(PROMPTS, 2, generator=torch.Generator().manual_seed(0))
    policy.backbone._embeddings.clear()
    seen: list[Counter[bool]] = [Counter() for _ in parts]

    def look(part: nn.Module, counter: Counter[bool], *_: Any) -> None:
        counter.update(on_gpu(part))

    for part, counter in zip(parts, seen, strict=True):
        for entry in (part, *part.children()):  # a VAE is entered by its children
            entry.register_forward_pre_hook(partial(look, part, counter))
    with shadow_device() as traffic:
        policy.to(GPU)
        reward.to(GPU)
        before = len(traffic.events)
        rollout = policy.rollout(PROMPTS, 2, generator=torch.Generator().manual_seed(0))
        with BackgroundRewards(reward, background=reward.overlaps(GPU)) as scoring:
            scoring.start(rollout)
            assert scoring.rewards().total.device == GPU
        policy.score(rollout, torch.tensor([0, 5])).log_probs.sum().backward()
        assert all(counter.keys() == {True} for counter in seen), seen
        assert all(on_gpu(part) == {False} for part in (*parts, detector.network))
        brought = [event for event in traffic.events[before:] if event.where.startswith("realgen/on_demand.py")]
        assert {event.operation for event in brought} == {"to the GPU"}
        assert not any(event.waits for event in brought)
        once, each_chunk = size(*parts, detector.network), 3 * size(policy.backbone.vae)
        assert sum(event.copied for event in brought) == once + each_chunk
        torch.testing.assert_close(rollout.images.cpu(), expected.images, rtol=0, atol=0.02)
