import pytest
import timm.data
import torch
from PIL import Image

from realgen.functional.images import from_uint8
from realgen.functional.network_input import NetworkInput, to_network_input
from realgen.functional.published_input import open_clip_input, timm_input

MEAN, STD = (0.5, 0.4, 0.3), (0.3, 0.25, 0.2)


def eight_bit(*shape):
    """Noise that survives the way through a file, of too little contrast for overshoot to leave [0, 1]."""
    return from_uint8(torch.randint(64, 192, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8))


def test_reads_timms_data_config():
    config = {"input_size": (3, 160, 150), "mean": MEAN, "std": STD, "crop_pct": 0.95}
    wanted = timm_input({**config, "interpolation": "bilinear", "crop_mode": "squash"})
    assert wanted == NetworkInput((160, 150), MEAN, STD, "bilinear", keep_aspect=False, resize_to=(168, 157))
    with pytest.raises(ValueError, match="crop_mode must be 'center' or 'squash', got 'border'"):
        timm_input({**config, "interpolation": "bilinear", "crop_mode": "border"})
    with pytest.raises(ValueError, match="interpolation must be 'bicubic' or 'bilinear', got 'lanczos'"):
        timm_input({**config, "interpolation": "lanczos", "crop_mode": "center"})


@pytest.mark.parametrize("shape", [(40, 56), (190, 333), (160, 160)])
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_is_timms_own_transform(shape, crop_mode):
    config = {"input_size": (3, 32, 32), "mean": MEAN, "std": STD, "crop_pct": 0.9, "interpolation": "bicubic"}
    config["crop_mode"] = crop_mode
    images = eight_bit(2, 3, *shape)
    transform = timm.data.create_transform(**config, is_training=False)
    files = [Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()) for image in images]
    expected = torch.stack([transform(file) for file in files])
    pixels = to_network_input(images, timm_input(config))
    torch.testing.assert_close(pixels, expected, atol=2 / 255 / min(STD), rtol=0)


def test_reads_open_clips_preprocess_config():
    config = {"size": 32, "mean": list(MEAN), "std": list(STD), "resize_mode": "squash"}
    assert open_clip_input({**config, "interpolation": "random"}) == NetworkInput(
        (32, 32), MEAN, STD, keep_aspect=False
    )
    assert open_clip_input({**config, "size": [24, 32], "interpolation": "bilinear"}).size == (24, 32)
    with pytest.raises(ValueError, match="resize_mode must be 'shortest' or 'squash', got 'longest'"):
        open_clip_input({**config, "interpolation": "bicubic", "resize_mode": "longest"})
