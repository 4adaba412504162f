"""The round trip through a VAE, and photographs written after it."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from realgen.data.image_files import ImageFile, read_image
from realgen.data.vae import load_vae, reconstruct, write_reconstructions

NANO = str(Path(__file__).parents[2] / "data/nano/sd3")


@pytest.fixture(scope="module")
def vae():
    return load_vae(NANO)  # of a pipeline: its vae


@pytest.fixture
def pictures():
    coarse = 0.3 + 0.4 * torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).expand(2, 3, 4, 4)
    return F.interpolate(coarse, size=64, mode="bicubic").clamp(0, 1)


def test_what_comes_back_is_the_picture_and_no_copy(vae, pictures):
    assert not any(parameter.requires_grad for parameter in vae.parameters())
    back = reconstruct(vae, pictures)
    assert back.min() >= 0
    assert back.max() <= 1
    assert 0 < (back - pictures).abs().mean() < 0.04
    with torch.no_grad():  # diffusers' own round trip, latents without noise
        posterior = vae.encode(2 * pictures[:1] - 1).latent_dist
        own = vae.decode(posterior.mode()).sample
    torch.testing.assert_close(back[:1], (own / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=0)


def test_a_size_that_the_vae_does_not_take_stays_that_size(vae, pictures):
    odd = pictures[:, :, :61, :35]
    back = reconstruct(vae, odd)
    assert back.shape == odd.shape
    assert (back - odd).abs().mean() < 0.04


def test_files_keep_their_names_and_broken_ones_are_left_out(vae, pictures, tmp_path):
    from torchvision.transforms.functional import to_pil_image

    (tmp_path / "in/a").mkdir(parents=True)
    to_pil_image(pictures[0]).save(tmp_path / "in/a/1.v2.jpg", quality=95)
    (tmp_path / "in/broken.png").write_text("no image")
    files = [ImageFile(tmp_path / "in" / name, name) for name in ("a/1.v2.jpg", "broken.png")]
    write_reconstructions(vae, files, tmp_path / "out")
    assert [str(path.relative_to(tmp_path / "out")) for path in tmp_path.glob("out/**/*.png")] == ["a/1.v2.png"]
    assert (read_image(tmp_path / "out/a/1.v2.png") - pictures[0]).abs().mean() < 0.04


def test_a_folder_without_a_vae_is_named(tmp_path):
    with pytest.raises(ValueError, match="vae must be a folder of diffusers' AutoencoderKL, "):
        load_vae(str(tmp_path))
