"""What a detector that learns holds: against the file of the embedded one, and by hand."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from realgen.detectors import OmniAID
from realgen.planning.learning_costs import learning_cost

DETECTOR = {"class_path": "realgen.detectors.OmniAID", "init_args": {"checkpoint": "data/nano/omniaid"}}
ALONE = {"class_path": "realgen.rewards.Realism", "init_args": {"detector": DETECTOR}}
SUM = {"class_path": "realgen.rewards.WeightedSum", "init_args": {"rewards": {"omniaid": ALONE, "gone": None}}}


def test_weights_optimizer_averages_and_images(repository: Path) -> None:
    weights = load_file("data/nano/omniaid/model.safetensors")
    trained = sum(w.nbytes for name, w in weights.items() if "_experts." in name or name.startswith("head."))
    settings = {"component": "omniaid", "trainable": "experts", "pairs": {"replay": 100, "held_out_images": 28}}
    cost = learning_cost(settings, SUM, side=64)
    assert cost is not None
    whole = sum(w.nbytes for w in weights.values())
    assert cost.held == whole + 3 * trained  # moments and averages
    assert cost.buffer == (2 * 100 + 3 * 28) * 3 * 64 * 64
    half, few = (learning_cost({**settings, "microbatch_size": number}, SUM, side=64) for number in (8, 1))
    assert half is not None
    assert 1.8 < (cost.alive - 4 * trained) / (half.alive - 4 * trained) < 2.0  # gradients do not depend on images
    assert few is not None
    assert few.alive >= 4 * trained + max(3 * trained, whole + trained)  # gradients, or a second network
    apart = learning_cost({**settings, "orthogonality_weight": 0.1}, SUM, side=64)
    assert apart is not None
    network = OmniAID("data/nano/omniaid").build()
    assert apart.held - cost.held == sum(basis.nbytes for bases in network.main_bases() for basis in bases) > 0
    pairs = {**settings["pairs"], "image_size": 32}
    assert learning_cost({**settings, "component": "realism", "pairs": pairs}, ALONE, side=64).buffer == cost.buffer / 4


def test_what_is_not_known_is_said(repository: Path) -> None:
    for reward in ({"class_path": "realgen.rewards.JpegSize"}, {**SUM, "init_args": {"rewards": {"omniaid": None}}}):
        assert learning_cost({"component": "omniaid"}, reward, side=64) is None
