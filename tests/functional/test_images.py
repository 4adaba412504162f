"""Images: what is refused, and agreement with Pillow."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from realgen.functional.images import center_square, from_uint8, jpeg_round_trip, resize, to_uint8
from realgen.functional.network_input import check_images


def photograph(height: int = 48, width: int = 40) -> torch.Tensor:
    """A picture with an edge, [1, 3, height, width] on the 8-bit grid, with room on both sides for overshoot."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    channels = torch.stack([x, (6 * y).sin().abs(), (x + y > 1).float()])
    return ((0.2 + 0.6 * channels) * 255).round().div(255).unsqueeze(0)


def to_pil(image: torch.Tensor) -> Image.Image:
    return Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def from_pil(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def test_all_eight_bit_values_survive():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, 3, 1, 1)
    assert torch.equal(to_uint8(from_uint8(levels)), levels)


def test_to_uint8_clamps_and_blackens_nan():
    values = torch.tensor([-0.0005, 1.0005, torch.nan]).view(1, 3, 1, 1)
    assert to_uint8(values).flatten().tolist() == [0, 255, 0]


@pytest.mark.parametrize("size", [(20, 16), (96, 100)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_resize_agrees_with_pillow(size, mode):
    image = photograph()
    expected = from_pil(to_pil(image[0]).resize(size[::-1], Image.Resampling[mode.upper()]))
    resized = resize(image, size, mode=mode)
    assert resized.shape == (1, 3, *size)
    # Pillow rounds to 8 bits after each of its two passes.
    assert (resized[0] - expected).abs().max() <= 1.5 / 255


def test_resize_stays_in_range_where_the_kernel_overshoots():
    edges = (photograph() > 0.5).float()
    resized = resize(edges, 64)
    check_images(resized)
    assert resized.min() == 0
    assert resized.max() == 1


def test_resize_is_differentiable():
    image = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
    resize(image, 4).sum().backward()
    # Each of 16 pixels is a weighted mean, so the weights of all inputs add up to 16 per channel.
    torch.testing.assert_close(image.grad.sum(), torch.tensor(48.0))


@pytest.mark.parametrize("quality", [10, 75, 100])
def test_jpeg_agrees_with_pillow(quality):
    image = photograph()
    file = io.BytesIO()
    to_pil(image[0]).save(file, "JPEG", quality=quality)
    assert torch.equal(jpeg_round_trip(image, quality)[0], from_pil(Image.open(file)))


def test_jpeg_loses_more_at_lower_quality():
    image = photograph()
    losses = [(jpeg_round_trip(image, quality) - image).square().mean() for quality in (10, 50, 95)]
    assert losses[0] > losses[1] > losses[2] > 0


def test_jpeg_passes_nan_on_and_leaves_the_neighbours_alone():
    images = photograph().repeat(2, 1, 1, 1)
    images[0, 0, 0, 0] = torch.nan
    decoded = jpeg_round_trip(images, 75)
    assert decoded[0].isnan().all()
    assert torch.equal(decoded[1], jpeg_round_trip(images[1:], 75)[0])


def test_jpeg_of_no_images_is_no_images():
    assert jpeg_round_trip(torch.empty(0, 3, 8, 8), 75).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("quality", [0, 101])
def test_jpeg_quality_out_of_range(quality):
    with pytest.raises(ValueError, match=f"quality must be 1 to 100, got {quality}"):
        jpeg_round_trip(photograph(), quality)


@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (64, 64)])
def test_the_centre_square_is_the_middle(height, width):
    images, side = photograph(height, width), min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    expected = resize(images[:, :, top : top + side, left : left + side], 20)
    assert torch.equal(center_square(images, 20), expected)
