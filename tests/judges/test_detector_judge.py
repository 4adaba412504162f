"""A detector as a judge: a toy whose answer is the mean of the red channel."""

import asyncio
import math

import pytest
import torch
from torch import nn

from realgen.detectors import Detector
from realgen.judges import DetectorJudge


class Red(nn.Module):
    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([gain]))


class RedDetector(Detector):
    """p_fake = mean of red, times a weight."""

    def __init__(self, gain: float = 1.0, offset: float = 0.0) -> None:
        super().__init__()
        self.gain, self.offset = gain, offset
        self.calls = 0

    def build(self):
        return Red(self.gain)

    def p_fake(self, network, images):
        self.calls += 1
        return images[:, 0].mean((1, 2)) * network.gain + self.offset


def image(red):
    return torch.full((3, 4, 6), 0.5).index_fill(0, torch.tensor([0]), red)


def compare(judge, first, second):
    return asyncio.run(judge.compare(first, second, "a prompt"))


def single(judge, shown):
    return asyncio.run(judge.judge_single(shown, "a prompt"))


def test_the_smaller_p_fake_is_the_more_realistic():
    judge = DetectorJudge(RedDetector())
    verdict = compare(judge, image(0.25), image(0.75))
    assert verdict.choice == "first"
    assert verdict.reply == "p_fake is 0.2500 and 0.7500"
    assert (verdict.tokens_in, verdict.tokens_out, verdict.requests) == (0, 0, 1)
    assert compare(judge, image(0.75), image(0.25)).choice == "second"
    assert compare(judge, image(0.5), image(0.5)).choice == "tie"


def test_images_of_two_sizes():
    assert compare(DetectorJudge(RedDetector()), image(0.25), image(0.75)[:, :3, :3]).choice == "first"


def test_a_margin_makes_ties():
    judge = DetectorJudge(RedDetector(), tie_margin=0.125)
    assert compare(judge, image(0.5), image(0.625)).choice == "tie"
    assert compare(judge, image(0.5), image(0.6875)).choice == "first"


@pytest.mark.parametrize(("red", "choice"), [(0.25, "real"), (0.5, "fake"), (0.75, "fake")])
def test_below_one_half_is_real(red, choice):
    assert single(DetectorJudge(RedDetector()), image(red)).choice == choice


def test_an_image_with_nan_is_no_verdict():
    judge = DetectorJudge(RedDetector())
    assert compare(judge, image(0.25), image(math.nan)).choice is None
    assert single(judge, image(math.nan)).choice is None


def test_every_image_is_scored_once():
    detector = RedDetector()
    judge = DetectorJudge(detector)
    for _ in range(2):
        compare(judge, image(0.25), image(0.75))
        compare(judge, image(0.75), image(0.25))
        single(judge, image(0.25))
    assert detector.calls == 2


def test_it_says_that_it_is_a_stand_in():
    judge = DetectorJudge(RedDetector())
    assert judge.name == "RedDetector (a detector as a stand-in)"
    assert DetectorJudge(RedDetector(), label="red").name.startswith("red ")
    assert judge.deterministic
    assert judge.concurrency == 1


def test_identity_knows_settings_weights_and_margin():
    base = DetectorJudge(RedDetector())
    assert base.identity("compare") == DetectorJudge(RedDetector(), label="other name").identity("compare")
    assert base.identity("compare") != DetectorJudge(RedDetector(gain=0.9)).identity("compare")
    assert base.identity("compare") != DetectorJudge(RedDetector(offset=0.1)).identity("compare")
    margin = DetectorJudge(RedDetector(), tie_margin=0.1)
    assert base.identity("compare") != margin.identity("compare")
    assert base.identity("single") == margin.identity("single")
    trained = RedDetector()
    trained.network.gain.data.add_(0.1)
    assert base.identity("single") != DetectorJudge(trained).identity("single")


def test_it_computes_where_the_command_does_unless_it_was_given_a_device():
    judge, given = DetectorJudge(RedDetector()), DetectorJudge(RedDetector(), device="cpu")
    assert judge.to("meta") is judge
    with pytest.raises(RuntimeError, match="meta"):
        single(judge, image(0.25))
    assert single(given.to("meta"), image(0.25)).choice == "real"


def test_mistakes():
    with pytest.raises(ValueError, match="tie_margin must be at least 0 and below 1, got 1"):
        DetectorJudge(RedDetector(), tie_margin=1.0)
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
        single(DetectorJudge(RedDetector()), image(2.0))
