import jaxtyping
import pytest
import torch

from realgen.rewards import JpegSize, Reward, WeightedSum


class Given(Reward):
    """Returns what it is given."""

    def __init__(self, scores):
        self.scores = scores

    def score(self, samples):
        return self.scores


def test_rows_are_folded_prompt_by_prompt(samples):
    output = Given(torch.arange(6.0))(samples)
    assert output.total.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert torch.equal(output.components["given"], output.total)
    assert output.weights == {"given": 1.0}
    assert bool(output.valid.all())


def test_what_is_not_finite_becomes_nan(samples):
    scores = torch.tensor([1.0, torch.inf, -torch.inf, torch.nan, 2.0, 3.0], dtype=torch.float64)
    folded = samples.per_prompt(scores, "given")
    assert folded.dtype == torch.float32
    assert folded.isnan().tolist() == [[False, True, True], [True, False, False]]
    assert Given(scores)(samples).valid.tolist() == [[True, False, False], [False, True, True]]


@pytest.mark.parametrize("rows", [5, 7])
def test_another_number_of_rows_is_an_error(samples, rows):
    with pytest.raises(ValueError, match=r"reward 'given' must return one score per row, shape \(6,\), got"):
        Given(torch.zeros(rows))(samples)


@pytest.mark.parametrize("reward", [JpegSize(), WeightedSum({"size": JpegSize()})], ids=["alone", "in a sum"])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.full((2, 3, 8, 8), 2.0), r"images must lie in \[0, 1\], got 384 values outside, from 2 to 2"),
        (torch.full((2, 3, 8, 8), -torch.inf), r"images must lie in \[0, 1\]"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "images must be floating in .*, got torch.uint8"),
        (torch.zeros(2, 1, 8, 8), r"images must have shape .*, got \[2, 1, 8, 8\]"),
    ],
)
def test_wrong_images_are_refused_and_never_scored(reward, images, message, make_samples, monkeypatch):
    """Even by a reward that looks at nothing: ``JpegSize`` would take an image of 2s for a white one."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # off as in training, or it objects first
    with pytest.raises(ValueError, match=message):
        reward(make_samples(images, ["a"], 2))
