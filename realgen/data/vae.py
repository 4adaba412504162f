"""Photographs after a VAE: what a latent diffusion model does to a picture before it has drawn anything of its own."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from realgen.checks import first_line
from realgen.data.generated_images import write_image
from realgen.data.image_files import ImageFile, read_image
from realgen.progress import ProgressBar


def load_vae(folder: str) -> Any:
    """Read an ``AutoencoderKL``, frozen, float32, from its folder or a pipeline's; ValueError if it cannot be read."""
    from diffusers import AutoencoderKL

    inside = Path(folder, "vae")
    try:
        place = inside if inside.is_dir() else folder
        vae: Any = AutoencoderKL.from_pretrained(place, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # broken files make it stumble in many ways
        raise ValueError(
            f"vae must be a folder of diffusers' AutoencoderKL, {folder!r}: {first_line(error)}"
        ) from error
    return vae.float().eval().requires_grad_(False)


@torch.no_grad()
def reconstruct(vae: Any, images: Float[Tensor, "rows 3 height width"]) -> Float[Tensor, "rows 3 height width"]:
    """Encode images in [0, 1] to the mean of their latents, and decode it; edges are repeated where sizes want it."""
    height, width = images.shape[2:]
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    padded = F.pad(images, (0, -width % factor, 0, -height % factor), mode="replicate")
    decoded = vae.decode(vae.encode(2 * padded.to(vae.device) - 1).latent_dist.mean).sample
    return (decoded / 2 + 0.5).clamp(0, 1)[..., :height, :width].to(images)


def write_reconstructions(vae: Any, files: Sequence[ImageFile], folder: Path) -> None:
    """Write images after a VAE as PNG files of the same names, with a bar; those that cannot be read are left out."""
    with ProgressBar(len(files), "through the VAE") as bar:
        for file in files:
            with suppress(ValueError):  # whoever reads the files themselves names it
                image = reconstruct(vae, read_image(file.path)[None])[0]
                write_image((folder / file.name).with_suffix(".png"), image, {})
            bar.update()
