"""Requests scored together: each gets its own rows, and an error stays with whom it belongs to."""

import numpy as np
import pytest
import torch

from realgen.serving.scoring import score_requests
from realgen.serving.wire import RewardRequest


class Brightness:
    """Mean of the pixels plus the length of the prompt; refuses black images, and notes its batches."""

    def __init__(self):
        self.batches = []

    def score(self, rollout):
        self.batches.append(tuple(rollout.images.shape))
        means = rollout.images.mean((1, 2, 3))
        if bool((means == 0).any()):
            raise ValueError("black")
        return means + torch.tensor([float(len(prompt)) for prompt in rollout.row_prompts])


def request(*levels, size=4, prompts=None, dtype=np.float32):
    images = np.array(levels, dtype=dtype)[:, None, None, None] * np.ones((1, 3, size, size), dtype)
    return RewardRequest(images, prompts)


def test_requests_of_one_size_are_one_batch():
    scorer = Brightness()
    first, second, third = score_requests(
        scorer, [request(0.25, 0.5), request(0.125, size=2), request(255, prompts=("abc",), dtype=np.uint8)]
    )
    assert scorer.batches == [(3, 3, 4, 4), (1, 3, 2, 2)]
    assert (first.tolist(), second.tolist(), third.tolist()) == ([0.25, 0.5], [0.125], [4.0])


def test_the_reward_sees_each_rows_metadata():
    class Seen:
        def score(self, samples):
            return torch.tensor([float(fields.get("count", -1)) for fields in samples.metadata])

    told = RewardRequest(request(0.5, 0.5).images, None, ({"count": 3}, {}))
    first, second = score_requests(Seen(), [told, request(0.25)])
    assert (first.tolist(), second.tolist()) == ([3.0, -1.0], [-1.0])


def test_a_bad_request_does_not_spoil_its_neighbours():
    good, bad, other = score_requests(Brightness(), [request(0.5), request(0.5, 0.0), request(0.25)])
    assert (good.tolist(), other.tolist()) == ([0.5], [0.25])
    assert isinstance(bad, ValueError)


def test_a_lone_bad_request_is_tried_once():
    scorer = Brightness()
    assert isinstance(score_requests(scorer, [request(0.0)])[0], ValueError)
    assert len(scorer.batches) == 1


def test_a_wrong_number_of_rewards_is_an_error():
    class Short:
        def score(self, rollout):
            return torch.zeros(1)

    (answer,) = score_requests(Short(), [request(0.5, 0.5)])
    assert "one number per row, 2" in str(answer)


def test_a_broken_device_is_not_swallowed():
    class Broken:
        def score(self, rollout):
            raise torch.AcceleratorError("device-side assert")

    with pytest.raises(torch.AcceleratorError):
        score_requests(Broken(), [request(0.5)])
