"""The sample at which a reward of a user fails is found, and named."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from PIL import Image

from realgen.cli.training import failing_sample
from realgen.modules.background_rewards import BackgroundRewards
from realgen.rewards import WeightedSum
from realgen.rewards.base import Reward
from realgen.types import PolicyScore, Rollout, Samples

IMAGES = torch.arange(6).float().view(6, 1, 1, 1).expand(6, 3, 4, 4) / 10
SAMPLES = Samples(("a cat", "a red fox"), 3, IMAGES)


class Decoding(Reward):
    """Opens a file of each sample; those of some levels are broken."""

    def __init__(self, broken: tuple[int, ...] = (), crowd: int | None = None) -> None:
        self.broken, self.crowd = broken, crowd

    def score(self, samples: Samples) -> Any:
        if self.crowd is not None and len(samples.images) > self.crowd:
            raise KeyError("too many")
        for level in (samples.images[:, 0, 0, 0] * 10).round().int().tolist():
            if level in self.broken:
                Image.open(io.BytesIO(b"no image"))
        return samples.images.mean((1, 2, 3))


def error_of(reward: Reward) -> Exception:
    with pytest.raises((OSError, KeyError)) as caught:
        WeightedSum({"mine": reward})(SAMPLES)
    return caught.value


@pytest.mark.parametrize(
    ("broken", "where"), [((4, 5), "sample 2 of 3 of 'a red fox'"), ((0,), "sample 1 of 3 of 'a cat'")]
)
def test_the_first_sample_that_fails_alone_is_named(broken: tuple[int, ...], where: str) -> None:
    assert failing_sample(error_of(Decoding(broken))) == where


def test_samples_that_fail_only_together_are_named_together() -> None:
    assert failing_sample(error_of(Decoding(crowd=2))) == "6 samples together, the first of 'a cat'"


def test_the_sample_is_found_behind_a_thread() -> None:
    none = torch.zeros(6, 0)
    rollout = Rollout(SAMPLES.prompts, 3, IMAGES, PolicyScore(none), none.bool())
    with BackgroundRewards(Decoding((3,))) as scoring:
        scoring.start(rollout)
        with pytest.raises(OSError, match="cannot identify") as caught:
            scoring.rewards()
    assert failing_sample(caught.value) == "sample 1 of 3 of 'a red fox'"


@pytest.mark.parametrize("error", [RuntimeError("elsewhere"), torch.OutOfMemoryError("full")])
def test_other_errors_are_about_no_sample(error: Exception) -> None:
    assert failing_sample(error) is None
