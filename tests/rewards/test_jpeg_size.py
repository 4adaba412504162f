import io
from pathlib import Path

import pytest
import torch
from PIL import Image

import realgen.rewards.jpeg_size
from realgen.rewards import JpegSize


def test_is_the_size_that_pillow_writes(make_samples):
    images = torch.rand(4, 3, 40, 24)
    expected = []
    for image in images:
        file = io.BytesIO()
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(file, format="JPEG", quality=95)
        expected.append(len(file.getvalue()) / 1000)
    assert JpegSize().score(make_samples(images, ["a", "b"], 2)).tolist() == pytest.approx(expected)


def test_detail_pays_and_a_broken_image_is_nan(make_samples):
    images = torch.stack([torch.full((3, 32, 32), 0.5), torch.rand(3, 32, 32), torch.full((3, 32, 32), torch.nan)])
    output = JpegSize()(make_samples(images, ["a"], 3))
    flat, rough, broken = output.components["jpegsize"][0].tolist()
    assert flat < rough
    assert broken != broken
    assert output.valid.tolist() == [[True, True, False]]


def test_the_example_is_small():
    assert len(Path(realgen.rewards.jpeg_size.__file__).read_text().splitlines()) <= 30
