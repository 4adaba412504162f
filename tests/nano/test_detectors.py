"""What the nano detectors learn from, and what their figures mean."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import torch
from torch import nn

from experiments.nano import detectors
from experiments.nano.corpus import HELD_OUT_CROPS
from experiments.nano.detectors import (
    SEEDS,
    TOWERS,
    Pictures,
    build_network,
    draw_batch,
    draw_samples,
    evaluate_detector,
    main,
    round_trip,
    train_detector,
)
from realgen.detectors.base import DetectorNetwork
from realgen.detectors.configs import VisionConfig
from realgen.functional.corruptions import CHEATS


def flat(value, rows=7):
    return torch.full((rows, 3, 64, 64), value, dtype=torch.uint8)


@pytest.fixture
def pictures():
    """Every source has a grey of its own."""
    return Pictures(real=flat(10), decoded=flat(20), ai=flat(30), samples=flat(40))


class Brightness(DetectorNetwork):
    """Takes bright pictures for generated."""

    config = VisionConfig()

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 2)

    def features(self, images):
        return images.mean((1, 2, 3), keepdim=False)[:, None]

    def forward(self, images):
        brightness = self.features(images)
        return torch.cat([torch.zeros_like(brightness), 100 * (brightness - 0.5)], dim=1)


def test_batch_is_half_real_and_mixed_as_it_says(pictures, monkeypatch):
    monkeypatch.setattr(detectors, "photo_augment", lambda images, _: images)
    monkeypatch.setattr(detectors, "light_augment", lambda images, _: images)
    kinds = {name: lambda images, _, n=n: torch.full_like(images, (250 + n) / 255) for n, name in enumerate(CHEATS)}
    monkeypatch.setattr(detectors, "CHEATS", kinds)
    images, labels = draw_batch(pictures, 32, torch.Generator().manual_seed(0))
    greys = images[:, 0, 0, 0].mul(255).round().tolist()
    assert labels.tolist() == [0.0] * 32 + [1.0] * 32
    assert greys[:32] == [10] * 16 + [20] * 16
    # an eighth AI-looking, a sixteenth of each of six kinds, the rest samples
    assert greys[32:] == [40] * 16 + [30] * 4 + [250] * 2 + [251] * 2 + [252] * 2 + [253] * 2 + [254] * 2 + [255] * 2


def test_every_corruption_of_every_source_is_drawn(pictures, monkeypatch):
    seen = set()

    def spy(name):
        def corrupt(images, _):
            seen.add((name, round(float(images.mean()) * 255)))
            return images

        return corrupt

    monkeypatch.setattr(detectors, "CHEATS", {name: spy(name) for name in CHEATS})
    for seed in range(40):
        draw_batch(pictures, 8, torch.Generator().manual_seed(seed))
    assert seen == {(name, grey) for name in CHEATS for grey in (10, 20, 40)}


@pytest.mark.parametrize("half", [8, 17, 32])
def test_batch_shapes_range_and_determinism(half):
    generator = torch.Generator().manual_seed(3)
    source = [torch.randint(0, 256, (9, 3, 64, 64), dtype=torch.uint8, generator=generator) for _ in range(4)]
    (images, labels), (again, _), (other, _) = (
        draw_batch(Pictures(*source), half, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert images.shape == (2 * half, 3, 64, 64)
    assert labels.sum() == half
    assert images.min() >= 0
    assert images.max() <= 1
    assert torch.equal(images, again)
    assert not torch.equal(images, other)


def test_figures_by_hand():
    pictures = Pictures(real=flat(90, 4), decoded=flat(200, 4), ai=flat(250, 4), samples=flat(200, 4))
    pictures.samples[0] = 90  # one sample of four is taken for real
    figures = evaluate_detector(Brightness(), pictures)
    assert figures["real_crops"] == 1.0
    assert figures["real_jpeg_75"] == 1.0
    assert figures["real_round_trip"] == 0.0
    assert figures["fake_samples"] == figures["fake_samples_jpeg_75"] == 0.75
    assert figures["fake_ai_looking"] == 1.0
    assert figures["balanced_accuracy"] == 0.875
    # a dark picture stays dark under all of these, so none is found; blots are of any brightness
    assert [figures[f"fake_{name}"] for name in ("blur", "noise", "flat", "grid", "over_contrast")] == [0.0] * 5
    names = {"balanced_accuracy", "real_crops", "real_round_trip", "real_jpeg_75"}
    names |= {"fake_samples", "fake_samples_jpeg_75", "fake_ai_looking"} | {f"fake_{name}" for name in CHEATS}
    assert set(figures) == names


@pytest.mark.parametrize(("patch_size", "count", "num_luma"), [(8, 96, 64), (16, 80, 60)])
def test_cosine_filters_are_dct_waves_that_grow_with_frequency(patch_size, count, num_luma):
    filters = detectors.cosine_filters(patch_size, count)
    assert filters.shape == (count, 3, patch_size, patch_size)
    dct = scipy.fft.dctn(filters.numpy(), axes=(2, 3), norm="ortho")  # one wave each, none twice in a colour
    red = dct[:, 0]
    place = [np.unravel_index(np.abs(plane).argmax(), plane.shape) for plane in red]
    assert (np.abs(red) > 1e-5).reshape(count, -1).sum(1).tolist() == [1] * count
    assert len(set(place[:num_luma])) == num_luma
    luma = np.linalg.norm(dct[:num_luma, 0], axis=(1, 2))
    assert luma == pytest.approx([(1 + np.hypot(*wave)) / 4 for wave in place[:num_luma]], rel=1e-5)
    assert torch.allclose(filters[:num_luma, :1], filters[:num_luma])
    assert filters[num_luma:].sum(1).abs().max() < 1e-6  # grey says nothing to chroma
    assert float(filters[0].std()) == pytest.approx(0, abs=1e-7)


def test_untrained_towers_have_cosine_filters():
    weight = next(p for n, p in build_network("effort").named_parameters() if n.endswith("patch_embedding.weight"))
    assert torch.equal(weight, detectors.cosine_filters(16, 80))


@pytest.mark.parametrize("name", sorted(TOWERS))
def test_networks_are_small_trained_whole_and_unlike_each_other(name):
    torch.manual_seed(0)
    network = build_network(name)
    assert sum(parameter.numel() for parameter in network.parameters()) < 1e6
    assert network(torch.rand(2, 3, 64, 64)).shape == (2, 2)
    assert any("patch_embedding" in key for key in network.trainable_parameters())
    other = next(tower for key, tower in TOWERS.items() if key != name)
    assert TOWERS[name].hidden_size != other.hidden_size
    assert TOWERS[name].patch_size != other.patch_size


def test_detectors_have_seeds_of_their_own():
    assert set(SEEDS) == set(TOWERS)
    assert len(set(SEEDS.values())) == len(SEEDS)


def test_training_ends_with_the_average_in_eval_mode(pictures, tmp_path):
    torch.manual_seed(0)
    network = build_network("effort")
    start = {name: value.clone() for name, value in network.state_dict().items()}
    trained = train_detector(network, pictures, tmp_path, steps=2, batch_size=16, seed=0)
    assert not trained.training
    assert any(not torch.equal(value, start[name]) for name, value in trained.state_dict().items())
    # two steps move an average of decay 0.998 by less than the learning rate times 0.004 each
    assert max(float((value - start[name]).abs().max()) for name, value in trained.state_dict().items()) < 1e-5


def test_samples_are_a_function_of_prompts_and_seed(untrained):
    first, again, other = (draw_samples(untrained, ["a cat", "bricks"], seed=seed, num_steps=1) for seed in (0, 0, 1))
    assert first.shape == (2, 3, 64, 64)
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@torch.no_grad()
def test_round_trip_is_the_vaes(untrained):
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(untrained / "vae", local_files_only=True).eval()
    pictures = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    latents = vae.encode(pictures / 127.5 - 1).latent_dist.mode()
    expected = (vae.decode(latents).sample * 127.5 + 127.5).clamp(0, 255)
    result = round_trip(untrained, pictures)
    assert result.dtype == torch.uint8
    assert (result - expected).abs().max() <= 0.51


def test_command_line_hands_on_its_arguments(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(detectors, "make_detector", lambda **settings: seen.append(settings) or {"fake_blur": 1.0})
    main(["--detector", "effort", "--output", "there", "--samples", "5"])
    assert seen == [
        {
            "detector": "effort",
            "output": Path("there"),
            "pretrained": Path("data/nano/sd3"),
            "crops": detectors.CROPS,
            "samples": 5,
            "held_out_crops": HELD_OUT_CROPS,
            "held_out_samples": detectors.HELD_OUT_SAMPLES,
            "steps": detectors.STEPS,
            "batch_size": detectors.BATCH_SIZE,
        }
    ]
    assert json.loads(capsys.readouterr().out) == {"fake_blur": 1.0}
