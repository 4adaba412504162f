"""The probe on an encoder's features: the formula by hand, its file, and the default's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from realgen.functional.logistic_regression import LogisticHead
from realgen.metrics import Encoder, EncoderProbe, MeanRealism
from realgen.metrics.encoder_probe import save_probe


class MeanColor(Encoder):
    """Three features: the mean of each channel."""

    def build(self):
        return nn.Linear(1, 1)  # the contract moves a network to the images

    def features(self, network, images):
        return images.mean((2, 3))


def test_is_the_mean_of_one_minus_the_logistic(tmp_path):
    save_probe(tmp_path, LogisticHead(torch.tensor([2.0, 0.0, -1.0]), torch.tensor(0.5)))
    metric = EncoderProbe(MeanColor(), str(tmp_path))
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    metric.update(images[:2], prompts=["a"] * 2)
    metric.update(images[2:], prompts=["a"] * 3)
    means = images.mean((2, 3))
    expected = 1 - (1 / (1 + (-(2 * means[:, 0] - means[:, 2] + 0.5)).exp())).mean()
    assert metric.compute().item() == pytest.approx(expected.item(), abs=1e-6)
    assert isinstance(metric, MeanRealism), "validation.csv has its value for every image"


def test_says_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match=r"probe must be a folder that holds model.safetensors; .*none"):
        EncoderProbe(MeanColor(), str(tmp_path / "none"))
    save_file({"weight": torch.zeros(3, 1), "bias": torch.zeros(())}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"must hold weight \[D\] and bias \[\], got {"):
        EncoderProbe(MeanColor(), str(tmp_path))
    save_probe(tmp_path, LogisticHead(torch.zeros(4), torch.tensor(0.0)))
    metric = EncoderProbe(MeanColor(), str(tmp_path))
    with pytest.raises(ValueError, match="probe is for 4 features, the encoder has 3"):
        metric.update(torch.rand(1, 3, 8, 8), prompts=["a"])


def test_the_shipped_probe_tells_samples_from_photographs():
    figures = json.loads(Path("data/nano/imagenet_probe/figures.json").read_text())
    assert figures["auroc"] > 0.9
    assert figures["realism_samples"] < 0.3 < 0.7 < figures["realism_photographs"]
