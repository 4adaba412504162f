"""Diversity: hand arithmetic, mode collapse, prompts spread over updates."""

from __future__ import annotations

import pytest
import torch
from scipy.spatial.distance import pdist
from torch import nn

from realgen.metrics import Diversity, Encoder
from realgen.metrics.base import prompt_ids


class MeanColor(Encoder):
    """Features = mean red, green and blue."""

    def build(self):
        return nn.Linear(1, 1)

    def features(self, network, images):
        return images.mean(dim=(2, 3))


def flat(*colors: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(colors).view(-1, 3, 1, 1).expand(-1, 3, 2, 2).contiguous()


RED, GREEN, GREY = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 1.0, 1.0)


def test_by_hand_over_two_updates():
    metric = Diversity(MeanColor())
    metric.update(flat(RED, GREY, RED), prompts=["a", "b", "c"])
    metric.update(flat(GREEN, GREY), prompts=["a", "b"])
    # a: red and green are orthogonal, 1; b: twice the same, 0; c: one image, left out
    assert metric.compute().item() == pytest.approx((1 + 0) / 2, abs=1e-6)


def test_equals_scipy_on_photographs(encoder, photographs):
    metric = Diversity(encoder)
    metric.update(photographs[:12], prompts=["a"] * 8 + ["b"] * 4)
    features = encoder(photographs[:12]).double().numpy()
    expected = (pdist(features[:8], metric="cosine").mean() + pdist(features[8:], metric="cosine").mean()) / 2
    assert metric.compute().item() == pytest.approx(expected, rel=1e-4)


def test_mode_collapse_lowers_it(encoder, photographs):
    prompts = [f"prompt {row // 8}" for row in range(32)]
    values = {}
    for share in (0.0, 0.5, 1.0):  # each group moves towards its first image
        images = photographs[:32].unflatten(0, (4, 8))
        metric = Diversity(encoder)
        metric.update(torch.lerp(images, images[:, :1].expand_as(images), share).flatten(0, 1), prompts=prompts)
        values[share] = metric.compute().item()
    assert values[0.0] > 1.5 * values[0.5] > 0
    assert values[1.0] == pytest.approx(0, abs=1e-6)


def test_one_image_per_prompt(encoder, photographs):
    metric = Diversity(encoder)
    metric.update(photographs[:3], prompts=["a", "b", "c"])
    with pytest.raises(
        ValueError, match=r"two images of some prompt, got one of each of 3.*validation_samples_per_prompt"
    ):
        metric.compute()


def test_prompt_ids_are_the_same_in_every_process():
    """``printf 'a cat' | b2sum -l 64`` prints the digests."""
    expected = [0x67F5DFB40B23DDA2, 0x4BA63CAF60C965F6]
    assert prompt_ids(["a cat", "ein Hündchen"]).tolist() == expected


def test_prompt_ids_differ():
    assert len(prompt_ids([f"prompt {n}" for n in range(1000)]).unique()) == 1000
