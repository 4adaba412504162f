import pytest
import torch

from realgen.rewards import Reward, per_prompt


class Given(Reward):
    """Returns what it is given."""

    def __init__(self, scores):
        self.scores = scores

    def score(self, rollout):
        return self.scores


def test_rows_are_folded_prompt_by_prompt(rollout):
    output = Given(torch.arange(6.0))(rollout)
    assert output.total.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert torch.equal(output.parts["given"], output.total)
    assert output.weights == {"given": 1.0}
    assert bool(output.valid.all())


def test_what_is_not_finite_becomes_nan(rollout):
    scores = torch.tensor([1.0, torch.inf, -torch.inf, torch.nan, 2.0, 3.0], dtype=torch.float64)
    folded = per_prompt(scores, rollout, "given")
    assert folded.dtype == torch.float32
    assert folded.isnan().tolist() == [[False, True, True], [True, False, False]]
    assert Given(scores)(rollout).valid.tolist() == [[True, False, False], [False, True, True]]


@pytest.mark.parametrize("rows", [5, 7])
def test_another_number_of_rows_is_an_error(rollout, rows):
    with pytest.raises(ValueError, match=r"reward 'given' must return one score per row, shape \(6,\), got"):
        Given(torch.zeros(rows))(rollout)
