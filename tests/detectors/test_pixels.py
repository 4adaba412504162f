import pytest
import torch
from PIL import Image
from torchvision import transforms
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

from realgen.detectors.pixels import clip_pixels, imagenet_pixels, prepare

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
        (clip_pixels, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
        (imagenet_pixels, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
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
        got = clip_pixels(noise, 336, preprocess=preprocess)
        torch.testing.assert_close(got, expected, rtol=0, atol=LEVELS[preprocess] / 255 / min(OPENAI_CLIP_STD))


def test_the_two_ways_to_resize_differ(images):
    difference = clip_pixels(images, 32, preprocess="v1") - clip_pixels(images, 32, preprocess="v2")
    assert difference.abs().max() > 0.1


def test_without_antialiasing_two_neighbours_are_averaged_and_the_rest_is_skipped():
    """Half-pixel centres: from 8 to 2 pixels, the new ones lie at 1.5 and 5.5, as with OpenCV's INTER_LINEAR."""
    row = torch.tensor([0.0, 0.2, 0.4, 0.9, 0.9, 0.6, 0.8, 0.1])
    images = row.expand(1, 3, 8, 8)
    plain = prepare(images, 2, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), antialias=False)
    torch.testing.assert_close(plain, torch.tensor([0.3, 0.7]).expand(1, 3, 2, 2))
    smooth = prepare(images, 2, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert (smooth - plain).abs().max() > 0.05
