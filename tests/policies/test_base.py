from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from realgen.policies import Policy


class Half(Policy):
    """One trained and one frozen layer."""

    def load(self) -> None:
        self.trained, self.frozen = nn.Linear(2, 3), nn.Linear(3, 1).requires_grad_(False)

    def rollout(self, prompts, group_size, *, generator):
        return None

    def score(self, rollout, rows):
        return None

    @contextmanager
    def reference(self) -> Iterator[None]:
        yield

    def sample(self, prompts, seeds):
        return None

    def export(self, directory):
        return directory


def test_only_what_is_trained_is_trainable() -> None:
    policy = Half()
    policy.load()
    assert set(policy.trainable_parameters()) == {"trained.weight", "trained.bias"}
    assert policy.device == torch.device("cpu")


def test_a_group_needs_a_sample() -> None:
    Half().check_group_size(1)
    with pytest.raises(ValueError, match="group_size must be at least 1, got 0"):
        Half().check_group_size(0)
