import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from realgen.detectors.clip_vision import ClipTower, clip_pixels, measures, quick_gelu


@pytest.mark.parametrize(("preprocess", "size"), [("v1", 336), ("v2", 336), ("v2", 32)])
def test_pixels_are_those_of_pillow(images, preprocess, size):
    files = [Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()) for image in images]
    if preprocess == "v1":
        files = [file.resize((512, 512), Image.Resampling.BILINEAR) for file in files]
    arrays = [
        np.asarray(file.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32) / 255 for file in files
    ]
    expected = (np.stack(arrays) - OPENAI_CLIP_MEAN) / OPENAI_CLIP_STD
    got = clip_pixels(images, size, preprocess=preprocess).permute(0, 2, 3, 1).numpy()
    # Pillow rounds to 8 bits after each of the two passes of a resize.
    levels = 3.0 if preprocess == "v1" else 1.5
    np.testing.assert_allclose(got, expected, rtol=0, atol=levels / 255 / min(OPENAI_CLIP_STD))


def test_the_two_ways_to_resize_differ(images):
    difference = clip_pixels(images, 32, preprocess="v1") - clip_pixels(images, 32, preprocess="v2")
    assert difference.abs().max() > 0.1


def test_quick_gelu_is_that_of_transformers():
    from transformers.activations import ACT2FN

    x = torch.linspace(-4, 4, 9)
    torch.testing.assert_close(quick_gelu(x), ACT2FN["quick_gelu"](x))


def test_measures_are_read_from_the_tower(clip_tower):
    assert ClipTower(**measures(clip_tower)) == ClipTower(24, 48, 2, 3, 8, 32, 1e-5)


def test_another_activation_is_refused():
    tower = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, hidden_act="gelu"
        )
    )
    with pytest.raises(ValueError, match="hidden_act must be 'quick_gelu', got 'gelu'"):
        measures(tower)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"hidden_size": 10, "num_attention_heads": 4}, "hidden_size must be a multiple of num_attention_heads"),
        ({"image_size": 30, "patch_size": 8}, "image_size must be a multiple of patch_size"),
    ],
)
def test_impossible_measures(numbers, message):
    with pytest.raises(ValueError, match=message):
        ClipTower(**numbers)
