"""The encoder contract, and the timm encoder from a directory."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from torch.nn import functional as F

from realgen.metrics import EncoderConfig, TimmEncoder, save_encoder

CONFIG = EncoderConfig(
    model_name="resnet10t",
    image_size=32,
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.25, 0.3),
    model_args={"channels": [4, 8, 12, 16], "stem_width": 4},
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    torch.manual_seed(0)
    network = CONFIG.network()
    network(torch.rand(8, 3, 32, 32))  # running statistics that are not the default
    return save_encoder(tmp_path_factory.mktemp("encoder") / "nano", network, CONFIG)


def test_equals_timm_by_hand(directory):
    images = torch.rand(3, 3, 48, 40)
    network = timm.create_model("resnet10t", num_classes=0, channels=[4, 8, 12, 16], stem_width=4)
    timm.models.load_checkpoint(network, str(directory / "model.safetensors"))
    small = F.interpolate(images, (32, 32), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
    with torch.no_grad():
        expected = network.eval()((small - mean) / std)
    features = TimmEncoder(str(directory))(images)
    assert features.shape == (3, 16)
    torch.testing.assert_close(features, expected)


def test_batch_equals_one_by_one(directory):
    encoder, images = TimmEncoder(str(directory), batch_size=2), torch.rand(5, 3, 32, 32)
    torch.testing.assert_close(encoder(images), torch.cat([encoder(image[None]) for image in images]))


def test_frozen_without_gradient_and_empty_batch(directory):
    encoder = TimmEncoder(str(directory))
    features = encoder(torch.rand(2, 3, 32, 32, requires_grad=True))
    assert not features.requires_grad
    assert not encoder.network.training
    assert not any(parameter.requires_grad for parameter in encoder.network.parameters())
    assert encoder(torch.rand(0, 3, 32, 32)).shape == (0, 16)
    assert features.dtype == torch.float32
    assert encoder.to("cpu") is encoder


def test_refuses_images_of_another_range(directory):
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
        TimmEncoder(str(directory))(torch.full((1, 3, 32, 32), 255.0))


def test_round_trip_of_the_config(directory):
    assert TimmEncoder(str(directory)).config == CONFIG


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_missing_file(directory, tmp_path, missing):
    for path in directory.iterdir():
        if path.name != missing:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=f"checkpoint must be an encoder directory; .*{missing} does not exist"):
        TimmEncoder(str(tmp_path))


@pytest.mark.parametrize("change", [{"image_size": None}, {"colour": 1}], ids=["missing", "unknown"])
def test_wrong_keys(directory, tmp_path, change):
    values = {**json.loads((directory / "config.json").read_text()), **change}
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"must have the keys .*'image_size'.* and may have model_args, got"):
        TimmEncoder(str(tmp_path))


def test_weights_of_another_network(directory, tmp_path):
    values = json.loads((directory / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "model_args": {}}))
    (tmp_path / "model.safetensors").write_bytes((directory / "model.safetensors").read_bytes())
    with pytest.raises(RuntimeError, match="size mismatch"):
        TimmEncoder(str(tmp_path))(torch.rand(1, 3, 32, 32))


def test_batch_size_below_one(directory):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        TimmEncoder(str(directory), batch_size=0)
