import pytest
import timm.data
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from realgen.functional.images import from_uint8
from realgen.functional.network_input import NetworkInput, covering, open_clip_input, timm_input, to_network_input

MEAN, STD = (0.5, 0.4, 0.3), (0.3, 0.25, 0.2)
MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


def eight_bit(*shape):
    """Noise that survives the way through a file, of too little contrast for overshoot to leave [0, 1]."""
    return from_uint8(torch.randint(64, 192, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8))


def on_files(images, *transforms):
    transform = Compose([*transforms, ToTensor(), Normalize(MEAN, STD)])
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
