"""The shared part of backbones on Qwen-Image's VAE, that of a video model, with texts that are not padded."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from realgen.parallel import send
from realgen.policies.backbones.pipeline import PipelineBackbone


class OneFrameBackbone(PipelineBackbone):
    """A backbone whose images are videos of one frame to the VAE."""

    text_is_padded: ClassVar[bool] = False

    @property
    def latent_channels(self) -> int:
        """Channels C of a latent."""
        return self._pipeline.vae.config.z_dim

    def vae_latents(self, latents: Float[Tensor, "rows channels h w"]) -> Float[Tensor, "rows channels frames h w"]:
        """Return latents of one frame each, on the scale that the VAE decodes."""
        mean, std = self._scale(latents)
        return (latents * std + mean).unsqueeze(2)

    def from_vae(self, latents: Float[Tensor, "rows channels frames h w"]) -> Float[Tensor, "rows channels h w"]:
        """Return the policy's latents of those of the VAE."""
        mean, std = self._scale(latents)
        return (latents.squeeze(2) - mean) / std

    def _scale(self, latents: Tensor) -> list[Tensor]:
        config = self._pipeline.vae.config
        return [latents.new_tensor(part).view(1, -1, 1, 1) for part in (config.latents_mean, config.latents_std)]


def cut_texts(
    text: Mapping[str, Tensor],
) -> tuple[Float[Tensor, "rows longest *dims"], Bool[Tensor, "rows longest"] | None]:
    """Cut texts to the longest of a call's rows; with them their mask, on their device, where they differ in length."""
    lengths = text["mask"].sum(dim=1).tolist()
    longest = max(lengths)
    mask = None if min(lengths) == longest else send(text["mask"][:, :longest], text["embeds"].device)
    return text["embeds"][:, :longest], mask


def whole_text(embeds: Float[Tensor, "tokens *dims"]) -> dict[str, Tensor]:
    """Return what ``encode`` does for a text without padding: its embeddings, and a mask of as many tokens."""
    return {"embeds": embeds, "mask": torch.ones(len(embeds), dtype=torch.bool)}
