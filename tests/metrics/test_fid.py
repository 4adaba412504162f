"""Fréchet distance: the closed form with scipy, and torchmetrics' class on the same encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torchmetrics.image.fid import FrechetInceptionDistance

from realgen.metrics import FID


def fid(encoder, images, real) -> float:
    metric = FID(encoder)
    metric.update(images, prompts=[""] * len(images))
    metric.add_real(real)
    return metric.compute().item()


def test_equals_the_closed_form(encoder, photographs):
    images, real = photographs[:40].flip(1), photographs[40:80]
    x, y = (encoder(part).double().numpy() for part in (images, real))
    a, b = np.cov(x.T), np.cov(y.T)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert fid(encoder, images, real) == pytest.approx(expected, rel=1e-4)


def test_equals_torchmetrics_with_the_encoder_as_its_network(encoder, photographs):
    images, real = photographs[:40] * 0.5, photographs[40:80]
    encoder.network.num_features = 12
    reference = FrechetInceptionDistance(feature=encoder.network)
    reference.update(images, real=False)
    reference.update(real, real=True)
    assert fid(encoder, images, real) == pytest.approx(reference.compute().item(), rel=1e-4)


def test_one_image_is_too_few(encoder, photographs):
    with pytest.raises(ValueError, match="FID needs at least 2 images of each kind, got 1 and 5 real"):
        fid(encoder, photographs[:1], photographs[1:6])


def test_photographs_given_alone_count_as_those_beside_images(encoder, photographs):
    metric = FID(encoder)
    metric.update(photographs[:20], prompts=[""] * 20, real=photographs[20:40])
    assert metric.compute().item() == pytest.approx(fid(encoder, photographs[:20], photographs[20:40]))
    with pytest.raises(ValueError, match=r"real must lie in \[0, 1\]"):
        metric.add_real(photographs[:2] * torch.tensor(3.0))
