"""A worker of ``realgen.serve`` on the shadow GPU: what it makes of a config, and how it answers requests."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from realgen.serve import config_reader, load
from realgen.serving.api import RewardAPI
from realgen.serving.wire import RewardRequest
from tests.helpers.shadow_device import ShadowTensor, shadow_device

REQUESTS = [
    RewardRequest(np.full((2, 3, 64, 64), 0.5, np.float32), ("a red fox", "a harbour")),
    RewardRequest(np.full((1, 3, 64, 64), 128, np.uint8), ("a tower",)),
    RewardRequest(np.full((1, 3, 32, 48), 0.25, np.float32), ("a cat",)),
]
"""Of two sizes and both types of pixels, as the web process hands them over."""


def worker(config: str, device: str) -> RewardAPI:
    make = functools.partial(load, config_reader().read(["--config", f"configs/serve/{config}.yaml"]), ())
    api = RewardAPI(make, max_batch_size=4, batch_timeout=0.05)
    with patch("signal.signal"):  # a worker has signals of its own
        api.setup(device)
    return api


def answers(api: RewardAPI) -> list[list[float]]:
    return [json.loads(bytes(api.encode_response(output).body))["rewards"] for output in api.predict(REQUESTS)]


@pytest.mark.parametrize("config", ["omniaid", "alignment"])
def test_a_worker_scores_on_its_gpu_what_it_would_on_the_cpu(config: str, repository: Path) -> None:
    expected = answers(worker(config, "cpu"))
    assert [len(rewards) for rewards in expected] == [2, 1, 1]
    with shadow_device() as traffic:
        api = worker(config, "cuda:0")
        before = len(traffic.events)
        assert answers(api) == [pytest.approx(rewards, abs=1e-5) for rewards in expected]
        (network,) = api.scorer.networks
        assert all(isinstance(weight, ShadowTensor) for weight in network.network.parameters())
    # The pixels of all images of one size go up at once, in float32.
    large = [event.copied for event in traffic.events[before:] if event.copied > 1000]
    assert large == [3 * 3 * 64 * 64 * 4, 3 * 32 * 48 * 4]
