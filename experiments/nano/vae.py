"""Train the nano VAE: a diffusers ``AutoencoderKL`` with 8 latent channels at a quarter of the resolution.

    python -m experiments.nano.vae --output data/nano/sd3/vae

The whole VAE is trained first, then the decoder alone goes on behind the frozen encoder.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from experiments.nano.corpus import TRAIN_SEED, Corpus, make_corpus
from experiments.nano.training import Training, cosine_lr

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

CROPS, STEPS, REFINE_STEPS, BATCH_SIZE, SEED = 100, 3000, 6000, 32, 0
"""Of the shipped VAE: crops per subject, steps of the whole, further steps of the decoder alone, and so on."""
DECODER_NOISE = 0.16
"""Most noise on the latents that the decoder is refined with, in their standard deviations: generated ones are not
exact, and a decoder that cannot trust the last digit learns to draw texture of its own."""
SPECTRUM_WEIGHT, SPECTRUM_SIDE, SPECTRUM_FLOOR = 0.5, 8, 1e-4
"""Of ``spectrum_loss`` beside the reconstruction, side of its windows, and the power that counts as none."""
PATCH = 32
"""Side of the training patches; the VAE is convolutional, so it works at 64 pixels and above."""


def build_vae() -> AutoencoderKL:
    """A VAE of 0.5 M parameters."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


Images = Float[Tensor, "batch 3 size size"]


def reconstruction_loss(decoded: Images, images: Images) -> Tensor:
    """L1 on pixels and on their first differences (fine texture)."""
    loss = F.l1_loss(decoded, images)
    for axis in (-1, -2):
        loss = loss + F.l1_loss(decoded.diff(dim=axis), images.diff(dim=axis))
    return loss


def window_power(images: Images, side: int) -> Float[Tensor, "windows side half"]:
    """Power of each spatial frequency in Hann windows that overlap by half, for each channel on its own."""
    windows = F.unfold(images.flatten(0, 1)[:, None], side, stride=side // 2)  # [B * 3, side * side, places]
    windows = windows.mT.reshape(-1, side, side)  # [B * 3 * places, side, side]
    line = torch.hann_window(side + 2, periodic=False, dtype=images.dtype)[1:-1]  # without the zeros at both ends
    hann = torch.outer(line, line)
    faded = (windows - windows.mean((1, 2), keepdim=True)) * hann
    return torch.fft.rfft2(faded).abs().square() / hann.square().sum()


@lru_cache
def ring_means(side: int) -> Float[Tensor, "rings bins"]:
    """Weights that average the bins of a window's spectrum over rings of equal frequency; no ring holds the mean."""
    across, down = torch.fft.rfftfreq(side), torch.fft.fftfreq(side)[:, None]
    radius = (torch.hypot(across, down) * side).round().long().flatten()  # [side * half], in waves per window
    times = torch.ones(side, side // 2 + 1)
    times[:, 1:-1] = 2  # of two bins that mirror each other rfft2 keeps one
    rings = F.one_hot(radius).T * times.flatten()  # [rings, bins]
    return (rings / rings.sum(1, keepdim=True))[1:]


def spectrum_loss(decoded: Images, images: Images) -> Tensor:
    """L1 between the logarithms of the local spectra: as much texture as in the image, wherever its grains lie.

    A loss on pixels alone punishes texture that is a pixel off twice, so the best answer to latents that do not hold
    the texture is blur. Powers are averaged over rings first: of a single bin, whose power is distributed exponentially
    about its mean, L1 learns the median, which lies 1.6 dB below.
    """
    means = ring_means(SPECTRUM_SIDE).T
    powers = [
        (window_power(which, SPECTRUM_SIDE).flatten(1) @ means + SPECTRUM_FLOOR).log() for which in (decoded, images)
    ]
    return F.l1_loss(*powers)


def vae_loss(vae: AutoencoderKL, images: Images, generator: torch.Generator) -> Tensor:
    """Reconstruction of a posterior sample plus 1e-4 of the KL to N(0, 1) per element."""
    posterior = vae.encode(images).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator)
    decoded = vae.decode(posterior.mean + posterior.std * noise).sample
    loss = reconstruction_loss(decoded, images)
    kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
    return loss + 1e-4 * kl


def draw_patches(pictures: Tensor, batch_size: int, generator: torch.Generator) -> tuple[Images, torch.Generator]:
    """Cut one patch, at a place shared by the batch, out of random pictures; in [-1, 1]."""
    rows = torch.randint(len(pictures), (batch_size,), generator=generator)
    x, y = torch.randint(pictures.shape[-1] - PATCH + 1, (2,), generator=generator).tolist()
    return pictures[rows, :, y : y + PATCH, x : x + PATCH].float() / 127.5 - 1, generator


def train_vae(output: Path, corpus: Corpus, *, steps: int, batch_size: int, seed: int) -> AutoencoderKL:
    """Train on patches of real and AI-looking crops, then set ``scaling_factor`` so that latents have unit variance."""
    torch.manual_seed(seed)
    vae = build_vae().to(memory_format=torch.channels_last)
    vae.encoder.compile(dynamic=False)
    vae.decoder.compile(dynamic=False)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    training = Training(output / "training.ckpt", vae, optimizer, seed=seed)
    pictures = torch.cat([corpus.real, corpus.ai])
    for step in training.steps(steps, "VAE"):
        images, generator = draw_patches(pictures, batch_size, training.generator(step))
        with torch.autocast("cpu", torch.bfloat16):
            loss = vae_loss(vae, images.contiguous(memory_format=torch.channels_last), generator)
        training.update(loss, lr=cosine_lr(step, steps, peak=2e-3, warmup=100))
    vae.eval()
    with torch.no_grad():
        sample = torch.cat([corpus.real[::40], corpus.ai[::40]]).float() / 127.5 - 1
        latents = torch.cat([vae.encode(chunk).latent_dist.mean for chunk in sample.split(64)])
    vae.register_to_config(scaling_factor=float(1 / latents.std()), shift_factor=float(latents.mean()))
    vae.save_pretrained(output)
    return vae


def load_vae(directory: Path) -> AutoencoderKL:
    """Read a VAE; unlike ``from_pretrained`` it is not marked with its folder, which would be saved with it."""
    from diffusers import AutoencoderKL
    from safetensors.torch import load_file

    vae = AutoencoderKL.from_config(AutoencoderKL.load_config(directory, local_files_only=True))
    vae.load_state_dict(load_file(directory / "diffusion_pytorch_model.safetensors"))
    return vae


def refine_decoder(output: Path, corpus: Corpus, *, steps: int, batch_size: int, seed: int) -> AutoencoderKL:
    """Train the decoder further behind the frozen encoder; latents, and what was trained on them, stay valid."""
    vae = load_vae(output).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.decoder.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    training = Training(output / "refining.ckpt", vae.decoder, optimizer, seed=seed, average=0.998)
    vae.decoder.compile(dynamic=False)
    pictures = torch.cat([corpus.real, corpus.real, corpus.ai])  # texture is in the photographs
    for step in training.steps(steps, "VAE decoder"):
        images, generator = draw_patches(pictures, batch_size, training.generator(step))
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.mean
            amount = DECODER_NOISE * torch.rand(len(latents), 1, 1, 1, generator=generator)
            latents = latents + amount * latents.std() * torch.randn(latents.shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            decoded = vae.decode(latents).sample
        decoded = decoded.float()
        loss = reconstruction_loss(decoded, images) + SPECTRUM_WEIGHT * spectrum_loss(decoded, images)
        training.update(loss, lr=cosine_lr(step, steps, peak=2e-3, warmup=100))
    vae.decoder.load_state_dict(training.averaged)
    vae.save_pretrained(output)
    return vae


def make_vae(
    output: Path,
    *,
    crops: int = CROPS,
    steps: int = STEPS,
    refine_steps: int = REFINE_STEPS,
    batch_size: int = BATCH_SIZE,
    seed: int = SEED,
) -> AutoencoderKL:
    """Cut the corpus, train the VAE and refine its decoder.

    Args:
        output: Folder of the VAE.
        crops: Per subject.
        steps: Of the whole VAE; 0 refines the one that ``output`` holds.
        refine_steps: Further steps of the decoder alone.
        batch_size: Patches per step.
        seed: Of weights and batches.

    Returns:
        The VAE, as it was written.
    """
    corpus = make_corpus(crops, seed=TRAIN_SEED)
    if steps:
        train_vae(output, corpus, steps=steps, batch_size=batch_size, seed=seed)
    return refine_decoder(output, corpus, steps=refine_steps, batch_size=batch_size, seed=seed + 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("data/nano/sd3/vae"))
    parser.add_argument("--crops", type=int, default=CROPS, help="crops per subject")
    parser.add_argument("--steps", type=int, default=STEPS, help="0 refines the VAE that is there")
    parser.add_argument("--refine_steps", type=int, default=REFINE_STEPS, help="further steps of the decoder alone")
    parser.add_argument("--batch_size", type=int, default=BATCH_SIZE)
    parser.add_argument("--seed", type=int, default=SEED)
    make_vae(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
