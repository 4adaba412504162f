import pytest
import torch

from realgen.rewards import Reward, WeightedSum


class Given(Reward):
    """Returns what it is given, and remembers where it was moved."""

    def __init__(self, *scores):
        self.scores = torch.tensor(scores)
        self.device = None

    def score(self, samples):
        return self.scores

    def to(self, device):
        self.device = device
        return self


class Failing(Reward):
    """Cannot score anything."""

    def score(self, samples):
        raise RuntimeError("the server is down")


ONES = (1.0,) * 6


def test_total_by_hand(samples):
    reward = WeightedSum({"a": Given(0.0, 1.0, 2.0, 3.0, 4.0, 5.0), "b": Given(*ONES)}, weights={"b": 0.5})
    output = reward(samples)
    assert output.total.tolist() == [[0.5, 1.5, 2.5], [3.5, 4.5, 5.5]]
    assert output.components["a"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert output.components["b"].tolist() == [[1.0] * 3] * 2, "parts are logged unweighted"
    assert output.weights == {"a": 1.0, "b": 0.5}
    assert reward.score(samples).tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]


def test_nan_of_a_part_masks_the_sample_and_is_counted(samples):
    nan = torch.nan
    parts = {"a": Given(nan, 1.0, torch.inf, 1.0, 1.0, 1.0), "b": Given(1.0, 1.0, 1.0, 1.0, 1.0, nan)}
    output = WeightedSum(parts)(samples)
    assert output.valid.tolist() == [[False, True, False], [True, True, False]]
    assert output.total[output.valid].tolist() == [2.0] * 3
    assert output.components["a"].isnan().tolist() == [[True, False, True], [False, False, False]]
    assert output.components["b"].isnan().tolist() == [[False, False, False], [False, False, True]]


def test_an_error_in_a_part_is_not_swallowed(samples):
    with pytest.raises(RuntimeError, match="the server is down"):
        WeightedSum({"a": Given(*ONES), "b": Failing()})(samples)


def test_a_part_of_another_length_is_named(samples):
    with pytest.raises(ValueError, match="reward 'short' must return one score per row"):
        WeightedSum({"short": Given(1.0, 1.0)})(samples)


def test_null_drops_a_part_and_its_weight_stays_legal(samples):
    output = WeightedSum({"a": Given(*ONES), "b": None}, weights={"a": 2.0, "b": 0.5})(samples)
    assert list(output.components) == ["a"]
    assert output.weights == {"a": 2.0}


def test_a_part_of_weight_zero_is_logged_and_moves_nothing(samples):
    output = WeightedSum({"a": Given(*ONES), "b": Given(*ONES)}, weights={"b": 0.0})(samples)
    assert set(output.components) == {"a", "b"}
    assert output.total.tolist() == [[1.0] * 3] * 2


def test_a_part_of_weight_zero_masks_nothing(samples):
    nan = torch.nan
    output = WeightedSum({"a": Given(*ONES), "b": Given(nan, *ONES[1:])}, weights={"b": 0.0})(samples)
    assert output.total.tolist() == [[1.0] * 3] * 2
    assert bool(output.valid.all())
    assert output.components["b"].isnan().sum() == 1


def test_moves_every_part():
    parts = {"a": Given(*ONES), "b": Given(*ONES)}
    reward = WeightedSum({**parts, "c": None})
    assert reward.to("cpu") is reward
    assert [part.device for part in parts.values()] == ["cpu", "cpu"]


@pytest.mark.parametrize(
    ("names", "weights", "message"),
    [
        ((), None, "rewards must hold at least one with a positive weight"),
        (("a",), {"a": 0.0}, "rewards must hold at least one with a positive weight"),
        (("omniaid", "alignment"), {"omniad": 1.0}, "weights: 'omniad' is not .* Did you mean omniaid"),
        (("omniaid", "alignment"), {"zzz": 1.0}, "weights: 'zzz' is not .* Allowed: alignment, omniaid"),
        (("a",), {"a": -1.0}, r"weights\['a'\] must be finite and >= 0, got -1.0"),
        (("a",), {"a": torch.inf}, r"weights\['a'\] must be finite and >= 0, got inf"),
        (("a",), {"a": torch.nan}, r"weights\['a'\] must be finite and >= 0, got nan"),
    ],
)
def test_mistakes(names, weights, message):
    with pytest.raises(ValueError, match=message):
        WeightedSum({name: Given(*ONES) for name in names}, weights=weights)


def test_dropping_every_part_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        WeightedSum({"a": None})
