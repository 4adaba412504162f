"""The VAE's losses by hand, its patches, and a decoder that is refined behind a frozen encoder."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments.nano import vae as module
from experiments.nano.corpus import Corpus
from experiments.nano.vae import (
    PATCH,
    build_vae,
    draw_patches,
    main,
    reconstruction_loss,
    refine_decoder,
    ring_means,
    spectrum_loss,
    train_vae,
    vae_loss,
    window_power,
)


@pytest.fixture
def corpus():
    generator = torch.Generator().manual_seed(0)
    real, ai = (torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8, generator=generator) for _ in range(2))
    return Corpus(real, ai, torch.arange(6))


def test_reconstruction_loss_by_hand():
    black, white = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    stripes = torch.tensor([0.0, 1.0, 0.0, 1.0]).expand(1, 3, 4, 4)
    assert reconstruction_loss(black, white).item() == pytest.approx(1.0)  # flat: no differences between neighbours
    assert reconstruction_loss(black, stripes).item() == pytest.approx(0.5 + 1.0)  # neighbours in a row differ by 1
    assert reconstruction_loss(stripes, stripes).item() == 0.0


def test_power_of_white_noise_is_its_variance_and_of_a_flat_image_none():
    noise = 0.3 * torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    power = window_power(noise, 8)
    assert power.shape[1:] == (8, 5)
    # the mean is taken out before the window, which bends the two lowest frequencies
    assert power[:, 2:7, 2:].mean().item() == pytest.approx(0.09, rel=0.02)
    assert window_power(torch.full((1, 3, 16, 16), 0.7), 8).max() < 1e-12


def test_spectrum_loss_wants_texture_and_not_its_place():
    generator = torch.Generator().manual_seed(0)
    texture = 0.3 * torch.randn(8, 3, 32, 32, generator=generator)
    other = 0.3 * torch.randn(8, 3, 32, 32, generator=generator)
    flat = torch.zeros_like(texture)
    assert spectrum_loss(texture, texture).item() == 0.0
    assert spectrum_loss(texture.flip(3), texture.flip(3)).item() == 0.0
    # pixels alone prefer no texture to one that lies elsewhere, the spectrum does not
    assert reconstruction_loss(flat, texture) < reconstruction_loss(other, texture)
    assert spectrum_loss(other, texture) < 0.5 * spectrum_loss(flat, texture)


def test_the_best_texture_is_as_strong_as_the_image():
    """Of single bins L1 would want the median of the power, 1.6 dB too weak."""
    generator = torch.Generator().manual_seed(0)
    texture, other = 0.3 * torch.randn(2, 16, 3, 32, 32, generator=generator)
    losses = {level: spectrum_loss(10 ** (level / 20) * other, texture).item() for level in (-1.6, -0.8, 0.0, 0.8)}
    assert min(losses, key=lambda level: losses[level]) == 0.0, losses


def test_rings_hold_every_bin_but_the_mean_once():
    means = ring_means(8)
    assert torch.allclose(means.sum(1), torch.ones(len(means)))
    assert ((means > 0).sum(0) == 1).tolist() == [False] + [True] * 39


def test_vae_loss_adds_the_kl_to_a_perfect_reconstruction():
    images = torch.rand(2, 3, 8, 8)
    # KL(N(2, 1) || N(0, 1)) = 2 per element
    posterior = SimpleNamespace(
        mean=torch.full((2, 8, 2, 2), 2.0), std=torch.tensor(1.0), var=torch.tensor(1.0), logvar=torch.tensor(0.0)
    )
    vae = SimpleNamespace(
        encode=lambda _: SimpleNamespace(latent_dist=posterior), decode=lambda _: SimpleNamespace(sample=images)
    )
    assert vae_loss(vae, images, torch.Generator().manual_seed(0)).item() == pytest.approx(2e-4, rel=1e-4)


def test_patches_are_cut_out_of_one_place_of_each_picture():
    x = torch.arange(64, dtype=torch.uint8).expand(64, 64)
    pictures = torch.stack([torch.stack([x, x.T, torch.full((64, 64), number)]) for number in range(5)]).to(torch.uint8)
    places = set()
    for seed in range(30):
        patches, _ = draw_patches(pictures, 8, torch.Generator().manual_seed(seed))
        assert patches.shape == (8, 3, PATCH, PATCH)
        values = ((patches + 1) * 127.5).round()
        left, top = values[0, 0, 0, 0], values[0, 1, 0, 0]
        assert torch.equal(values[:, 0], (left + torch.arange(PATCH)).expand(8, PATCH, PATCH))
        assert torch.equal(values[:, 1], (top + torch.arange(PATCH)).expand(8, PATCH, PATCH).mT)
        assert set(values[:, 2].unique().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}
        places.add((int(left), int(top)))
    assert len(places) > 20
    assert all(0 <= start <= 64 - PATCH for place in places for start in place)


def test_a_vae_of_a_quarter_of_the_resolution():
    vae = build_vae()
    latents = vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mean
    assert latents.shape == (1, 8, 16, 16)
    assert vae.decode(latents).sample.shape == (1, 3, 64, 64)
    assert 0.4e6 < sum(parameter.numel() for parameter in vae.parameters()) < 0.7e6


@pytest.mark.usefixtures("eager")
def test_training_scales_latents_and_refining_leaves_the_encoder_alone(corpus, tmp_path):
    from diffusers import AutoencoderKL

    trained = train_vae(tmp_path, corpus, steps=2, batch_size=2, seed=0)
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    pictures = torch.cat([corpus.real[::40], corpus.ai[::40]]).float() / 127.5 - 1
    with torch.no_grad():
        means = trained.encode(pictures).latent_dist.mean
    latents = (means - trained.config.shift_factor) * trained.config.scaling_factor
    assert latents.std().item() == pytest.approx(1.0, abs=1e-3)
    assert latents.mean().item() == pytest.approx(0.0, abs=1e-3)

    refine_decoder(tmp_path, corpus, steps=2, batch_size=2, seed=1)
    refined = AutoencoderKL.from_pretrained(tmp_path, local_files_only=True)
    assert refined.config.scaling_factor == trained.config.scaling_factor
    changed = {name for name, value in refined.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} == {"decoder"}
    assert not list(tmp_path.glob("*.ckpt"))


@pytest.mark.parametrize("steps", [0, 3])
def test_no_steps_refine_what_is_there(steps, monkeypatch, corpus, tmp_path):
    calls = []
    monkeypatch.setattr(module, "make_corpus", lambda crops, *, seed: corpus)
    monkeypatch.setattr(module, "train_vae", lambda *_, **settings: calls.append(("train", settings)))
    vae = build_vae()
    monkeypatch.setattr(module, "refine_decoder", lambda *_, **settings: calls.append(("refine", settings)) or vae)
    module.make_vae(tmp_path, steps=steps, refine_steps=4, batch_size=2, seed=7)
    refine = ("refine", {"steps": 4, "batch_size": 2, "seed": 8})
    assert calls == ([("train", {"steps": 3, "batch_size": 2, "seed": 7}), refine] if steps else [refine])


def test_command_line_hands_on_its_arguments(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "make_vae", lambda **settings: seen.append(settings))
    main(["--output", "there", "--refine_steps", "3"])
    expected = {"crops": module.CROPS, "steps": module.STEPS, "batch_size": module.BATCH_SIZE, "seed": module.SEED}
    assert seen == [{**expected, "output": Path("there"), "refine_steps": 3}]
