from functools import partial

import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

from realgen.functional.images import from_uint8
from realgen.functional.network_input import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    NetworkInput,
    check_images,
    covering,
    to_network_input,
    tower_pixels,
)
from tests.helpers.shadow_device import shadow_device

MEAN, STD = (0.5, 0.4, 0.3), (0.3, 0.25, 0.2)
MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


def eight_bit(*shape):
    """Noise that survives the way through a file, of too little contrast for overshoot to leave [0, 1]."""
    return from_uint8(torch.randint(64, 192, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8))


@pytest.fixture
def images():
    """Six images of 40 x 48 pixels, each of its own colour and roughness."""
    generator = torch.Generator().manual_seed(2)
    colour, noise = torch.rand(6, 3, 1, 1, generator=generator), torch.rand(6, 3, 40, 48, generator=generator)
    return colour.lerp(noise, torch.linspace(0.1, 0.9, 6).view(6, 1, 1, 1))


def on_files(images, *steps):
    transform = Compose([*steps, ToTensor(), Normalize(MEAN, STD)])
    files = [Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()) for image in images]
    return torch.stack([transform(file) for file in files])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(40, 56), (90, 33), (20, 20), (41, 64)])
def test_keeps_the_aspect_as_torchvision_does(mode, shape):
    images = eight_bit(3, 3, *shape)
    expected = on_files(images, Resize(36, MODES[mode]), CenterCrop(32))
    pixels = to_network_input(images, NetworkInput((32, 32), MEAN, STD, mode=mode, resize_to=(36, 36)))
    torch.testing.assert_close(pixels, expected, atol=1.5 / 255 / min(STD), rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_squeezes_as_torchvision_does(mode):
    images = eight_bit(3, 3, 40, 56)
    expected = on_files(images, Resize((36, 30), MODES[mode]), CenterCrop((32, 28)))
    wanted = NetworkInput((32, 28), MEAN, STD, mode=mode, keep_aspect=False, resize_to=(36, 30))
    torch.testing.assert_close(to_network_input(images, wanted), expected, atol=1.5 / 255 / min(STD), rtol=0)


def test_an_image_of_the_right_size_is_only_normalised():
    images = eight_bit(2, 3, 32, 32)
    pixels = to_network_input(images, NetworkInput((32, 32), MEAN, STD))
    assert torch.equal(pixels, (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))


@pytest.mark.parametrize(
    ("old", "frame", "expected"),
    [((40, 60), (20, 20), (20, 30)), ((60, 40), (20, 20), (30, 20)), ((50, 50), (20, 40), (40, 40))],
)
def test_covering_is_tight(old, frame, expected):
    assert covering(old, frame) == expected


LEVELS = {"v1": 3.0, "v2": 1.5}
"""Of 255, as the docstring says: Pillow rounds to 8 bits after each of the two passes of a resize."""


def by_torchvision(images, sizes, mean, std):
    """What the published scorers do, on Pillow images of 8 bits."""
    transform = transforms.Compose(
        [*(transforms.Resize((size, size)) for size in sizes), transforms.ToTensor(), transforms.Normalize(mean, std)]
    )
    files = [Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()) for image in images]
    return torch.stack([transform(file) for file in files])


@pytest.mark.parametrize(("preprocess", "size"), [("v1", 336), ("v2", 336), ("v2", 32)])
@pytest.mark.parametrize(
    ("function", "mean", "std"),
    [
        (tower_pixels, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
        (partial(tower_pixels, mean=IMAGENET_MEAN, std=IMAGENET_STD), IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    ],
)
def test_pixels_are_those_of_torchvision_on_pillow(images, preprocess, size, function, mean, std):
    images = (images * 255).round() / 255
    sizes = (512, size) if preprocess == "v1" else (size,)
    expected = by_torchvision(images, sizes, mean, std)
    got = function(images, size, preprocess=preprocess)
    tolerance = LEVELS[preprocess] / 255 / min(std)
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)
    assert (got - expected).abs().mean() < tolerance / 3


def test_a_large_picture_is_shrunk_as_torchvision_shrinks_it():
    noise = torch.rand(1, 3, 700, 500, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    for preprocess, sizes in (("v1", (512, 336)), ("v2", (336,))):
        expected = by_torchvision(noise, sizes, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
        got = tower_pixels(noise, 336, preprocess=preprocess)
        torch.testing.assert_close(got, expected, rtol=0, atol=LEVELS[preprocess] / 255 / min(OPENAI_CLIP_STD))


def test_the_two_ways_to_resize_differ(images):
    difference = tower_pixels(images, 32, preprocess="v1") - tower_pixels(images, 32, preprocess="v2")
    assert difference.abs().max() > 0.1


def test_without_antialiasing_two_neighbours_are_averaged_and_the_rest_is_skipped():
    """Half-pixel centres: from 8 to 2 pixels, the new ones lie at 1.5 and 5.5, as with OpenCV's INTER_LINEAR."""
    row = torch.tensor([0.0, 0.2, 0.4, 0.9, 0.9, 0.6, 0.8, 0.1])
    images = row.expand(1, 3, 8, 8)
    unchanged = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "mode": "bilinear", "keep_aspect": False}
    plain = to_network_input(images, NetworkInput((2, 2), antialias=False, **unchanged))
    torch.testing.assert_close(plain, torch.tensor([0.3, 0.7]).expand(1, 3, 2, 2))
    smooth = to_network_input(images, NetworkInput((2, 2), **unchanged))
    assert (smooth - plain).abs().max() > 0.05


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_images_in_range_pass(dtype):
    check_images(torch.tensor([0.0, 1.0, 0.5]).view(1, 3, 1, 1).to(dtype))


def test_images_that_nobody_drew_pass_where_they_may():
    check_images(torch.zeros(2, 3, 0, 0), may_lack_pixels=True)


def test_nan_rows_pass():
    images = torch.rand(2, 3, 4, 4)
    images[0] = torch.nan
    check_images(images)


def test_rounding_outside_the_range_passes_up_to_the_tolerance():
    check_images(torch.tensor([-0.0009, 1.0009, 0.5]).view(1, 3, 1, 1))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(3, 4, 4), r"photos must have shape \[batch, 3, height, width\], got \[3, 4, 4\]"),
        (torch.rand(2, 1, 4, 4), r"got \[2, 1, 4, 4\]"),
        (torch.zeros(2, 3, 0, 0), r"photos must have pixels, got \[2, 3, 0, 0\]; has the policy no image_policy"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), r"photos must be floating in \[0, 1\], got torch.uint8"),
        (torch.full((1, 3, 2, 2), 1.002), r"photos must lie in \[0, 1\], got 12 values outside, from 1.002 to 1.002"),
        (torch.full((1, 3, 2, 2), -0.002), r"from -0.002"),
        (torch.full((1, 3, 2, 2), torch.inf), r"to inf"),
    ],
)
def test_what_is_no_image_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        check_images(images, "photos")


def test_mean_and_deviation_are_copied_to_a_gpu_once():
    with shadow_device() as traffic:
        images = torch.rand(2, 3, 8, 8, device="cuda")
        wanted = NetworkInput((4, 4), (0.1, 0.2, 0.3), STD)
        with torch.inference_mode():  # as a detector calls it
            first = to_network_input(images, wanted)
        start = len(traffic.events)
        assert torch.equal(to_network_input(images.requires_grad_(), wanted), first)
        assert not traffic.events[start:-1]  # but for the comparison
