"""The shared part of backbones whose transformer takes 2 x 2 latent pixels as one token, as FLUX.1 does."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.parallel import send
from realgen.policies.backbones.pipeline import JOINT_ATTENTION, PipelineBackbone


class PackedBackbone(PipelineBackbone):
    """A backbone that packs latents into tokens, and tells the transformer where text and image are."""

    lora_targets: tuple[str, ...] = (
        *JOINT_ATTENTION,
        *(f"{part}.net.{layer}" for part in ("ff", "ff_context") for layer in ("0.proj", "2")),
    )

    def predict(
        self, latents: Float[Tensor, "rows *latent"], timesteps: Float[Tensor, " rows"], text: Mapping[str, Tensor]
    ) -> Float[Tensor, "rows *latent"]:
        """Return the transformer's velocity, without guidance by a second row; see ``PipelineBackbone``."""
        pipeline, embeds, (rows, channels, height, width) = self._pipeline, text["embeds"], latents.shape
        # Kind, row and column of each token, made on the CPU.
        sides = (torch.zeros(1), torch.arange(height // 2).float(), torch.arange(width // 2).float())
        output = self.transformer(
            hidden_states=pipeline._pack_latents(latents, rows, channels, height, width),
            timestep=timesteps / 1000,
            encoder_hidden_states=embeds,
            txt_ids=send(torch.zeros(embeds.shape[1], 3), embeds.device),
            img_ids=send(torch.cartesian_prod(*sides), embeds.device),
            return_dict=False,
            **self.inputs(timesteps, text, height * width // 4),
        )[0]
        factor = pipeline.vae_scale_factor
        return pipeline._unpack_latents(output, height * factor, width * factor, factor)

    @abstractmethod
    def inputs(
        self, timesteps: Float[Tensor, " rows"], text: Mapping[str, Tensor], image_tokens: int
    ) -> dict[str, Any]:
        """Return the transformer's other arguments."""
