"""FunctionReward: a plain function named in a config scores images, and its mistakes are told with its name."""

import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from realgen.rewards import FunctionReward, Reward, WeightedSum
from realgen.types import Samples
from tests.rewards.test_configs import build

SOURCE = """
import math

calls = []
not_callable = 3

def brightness(images, prompts, metadata):
    calls.append((images, prompts, metadata))
    return [float(image.mean()) for image in images]

def objects(images, prompts, metadata):
    return [len(fields.get("objects", [])) for fields in metadata]

def unscored(images, prompts, metadata):
    return [None, math.nan, *[1] * (len(images) - 2)]

def too_few(images, prompts, metadata):
    return [0.5]

def texts(images, prompts, metadata):
    return ["good"] * len(images)

def one_number(images, prompts, metadata):
    return 0.5

def of_images(images):
    return [0.0] * len(images)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "my_rewards_in_test.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_rewards_in_test"
    sys.modules.pop("my_rewards_in_test", None)


def test_rows_get_the_functions_numbers_and_their_prompts_and_metadata(mine, samples):
    told = Samples(samples.prompts, 3, samples.images, metadata=({"objects": ["moon"]}, {}))
    sum_of_both = WeightedSum({"light": FunctionReward(f"{mine}.brightness"), "n": FunctionReward(f"{mine}.objects")})
    components = sum_of_both(told).components
    torch.testing.assert_close(components["light"], torch.tensor([[0.0, 0.1, 0.2], [0.3, 0.4, 0.5]]))
    assert components["n"].tolist() == [[1, 1, 1], [0, 0, 0]]
    _, prompts, metadata = sys.modules[mine].calls[0]
    assert prompts == samples.row_prompts
    assert metadata == [{"objects": ["moon"]}] * 3 + [{}] * 3


def test_a_config_names_it(mine, samples):
    reward = build(Reward, "--part=realgen.rewards.FunctionReward", f"--part.function={mine}.brightness")
    assert reward(samples).components["brightness"].shape == (2, 3)


def test_pictures_of_pillow_have_the_same_pixels(mine, samples):
    reward = FunctionReward(f"{mine}.unscored", images="pil")
    reward.function = lambda images, prompts, metadata: [np.asarray(image).mean() / 255 for image in images]
    torch.testing.assert_close(reward.score(samples), torch.arange(6) / 10, atol=0.002, rtol=0)
    reward.function = lambda images, prompts, metadata: [isinstance(image, Image.Image) for image in images]
    assert reward.score(samples).tolist() == [1] * 6


def test_none_and_broken_images_are_not_scored(mine, samples):
    images = samples.images.clone()
    images[0] = torch.nan
    scores = FunctionReward(f"{mine}.unscored").score(Samples(samples.prompts, 3, images))
    assert [math.isnan(score) for score in scores] == [True, True, True, False, False, False]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("too_few", r"reward 'my_rewards_in_test\.too_few' must return a list of 6 numbers, one per image, got 1\."),
        ("texts", r"texts' must return a list of 6 numbers, one per image, got a str for image 0\."),
        ("one_number", r"one_number' must return a list of 6 numbers, one per image, got a float\."),
    ],
)
def test_what_it_returns_is_checked_and_the_reward_named(mine, name, message, samples):
    with pytest.raises(ValueError, match=message):
        FunctionReward(f"{mine}.{name}").score(samples)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("brightness", r"must be module\.name, which Python can import, got 'brightness'"),
        ("no_such_module_of_mine.f", "No module named 'no_such_module_of_mine'"),
        ("my_rewards_in_test.absent", "has no attribute 'absent'"),
        ("my_rewards_in_test.not_callable", "must take .*, got .*: 3 is not a callable object"),
        ("my_rewards_in_test.of_images", r"must take \(images, prompts, metadata\), got .*: too many positional"),
    ],
)
@pytest.mark.usefixtures("mine")
def test_a_path_that_is_no_such_function_is_refused_before_the_run(path, message):
    with pytest.raises(ValueError, match=message):
        FunctionReward(path)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_lists_of_any_library_are_numbers(mine, kind, samples):
    reward = FunctionReward(f"{mine}.brightness")
    reward.function = lambda images, prompts, metadata: kind([0.25] * len(images))
    assert reward.score(samples).tolist() == [0.25] * 6
