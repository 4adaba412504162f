"""What is in a GPU's memory at the fullest moment of each phase."""

from __future__ import annotations

from realgen.planning import Sharding
from realgen.planning.memory import find_peaks

PARTS: dict[str, int | None] = {
    "frozen weights": 1, "gradients": 10, "reference copy": 100,
    "text encoders": 1000, "VAE": 10_000, "rewards": 100_000, "activations": 9_000_000,
}  # fmt: skip
ACTIVATIONS = dict.fromkeys(("text encoding", "rollout", "decode", "reference", "update"), 1_000_000)


def test_everything_is_there_but_gradients_and_reference() -> None:
    assert find_peaks(PARTS, ACTIVATIONS, Sharding("FSDP2", 8)) == {
        "text encoding": 1_111_001, "rollout": 1_111_001, "decode": 1_111_001,
        "reference": 1_111_101, "update": 1_111_011,
    }  # fmt: skip


def test_on_demand_the_rewards_stay_until_the_first_call_with_gradient() -> None:
    assert find_peaks(PARTS, ACTIVATIONS, Sharding("FSDP2", 8, on_demand=True)) == {
        "text encoding": 1_111_001,  # the last chunk's decoder is still there
        "rollout": 1_100_001, "decode": 1_110_001, "reference": 1_100_101, "update": 1_000_011,
    }  # fmt: skip
