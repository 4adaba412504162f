"""What a detector that learns holds: against the file of the embedded one, and by hand."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

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
    assert cost.held == sum(w.nbytes for w in weights.values()) + 5 * trained
    assert cost.buffer == 128 * 2 * 3 * 64 * 64
    half = learning_cost({**settings, "microbatch_size": 8}, SUM, side=64)
    assert half is not None
    assert 1.8 < cost.alive / half.alive < 2.0  # gradients do not depend on the number of images
    pairs = {**settings["pairs"], "image_size": 32}
    assert learning_cost({**settings, "component": "realism", "pairs": pairs}, ALONE, side=64).buffer == cost.buffer / 4


def test_what_is_not_known_is_said(repository: Path) -> None:
    for reward in ({"class_path": "realgen.rewards.JpegSize"}, {**SUM, "init_args": {"rewards": {"omniaid": None}}}):
        assert learning_cost({"component": "omniaid"}, reward, side=64) is None
