"""What is in a GPU's memory at the fullest moment of each phase."""

from __future__ import annotations

from realgen.planning.memory import find_peaks

PARTS: dict[str, int | None] = {
    "frozen weights": 1, "gradients": 10, "reference copy": 100,
    "text encoders": 1000, "VAE": 10_000, "rewards": 100_000, "activations": 9_000_000,
}  # fmt: skip
ACTIVATIONS = dict.fromkeys(("text encoding", "rollout", "decode", "reference", "update", "reward"), 1_000_000)


def test_everything_is_there_but_gradients_and_reference() -> None:
    assert find_peaks(PARTS, ACTIVATIONS) == {
        "text encoding": 1_111_001, "rollout": 1_111_001, "decode": 1_111_001,
        "reference": 1_111_101, "update": 1_111_011, "reward": 1_111_001,
    }  # fmt: skip


def test_on_demand_each_network_is_there_while_it_computes() -> None:
    assert find_peaks(PARTS, ACTIVATIONS, on_demand=True) == {
        "text encoding": 1_011_001, "rollout": 1_000_001, "decode": 1_010_001,
        "reference": 1_000_101, "update": 1_000_011, "reward": 1_100_001,
    }  # fmt: skip
