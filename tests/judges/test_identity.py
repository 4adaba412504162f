"""What tells judges apart."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from realgen.judges.detector_judge import plain_settings, weights_digest


def test_settings_are_plain_public_values():
    part = SimpleNamespace(
        b=(1, 2), a="x", path=Path("models/x"), dtype=torch.float32, batch_size=4, _hidden=1, network=nn.Linear(1, 1)
    )
    assert plain_settings(part) == {"a": "x", "b": "(1, 2)", "dtype": "torch.float32", "path": "models/x"}


def network():
    return nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30))


def test_equal_weights_have_one_digest():
    first, second = network(), network()
    second.load_state_dict(first.state_dict())
    assert weights_digest(first) == weights_digest(second)
    assert weights_digest(first.double()) == weights_digest(second)


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.running_mean"])
def test_other_weights_have_another(name):
    changed = network()
    before = weights_digest(changed)
    changed.state_dict()[name].add_(0.01)
    assert weights_digest(changed) != before


def test_another_shape_has_another():
    assert weights_digest(nn.Linear(2, 3, bias=False)) != weights_digest(nn.Linear(3, 2, bias=False))


def test_large_tensors_are_sampled_throughout():
    large = nn.Linear(1000, 1000, bias=False)
    before = weights_digest(large)
    large.weight.data.mul_(1.01)
    assert weights_digest(large) != before
