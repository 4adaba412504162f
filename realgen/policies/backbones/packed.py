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
        "ff.net.0.proj",
        "ff.net.2",
        "ff_context.net.0.proj",
        "ff_context.net.2",
    )

    def predict(
        self, latents: Float[Tensor, "rows *latent"], timesteps: Float[Tensor, " rows"], text: Mapping[str, Tensor]
    ) -> Float[Tensor, "rows *latent"]:
        """Return the transformer's velocity, without guidance by a second row; see ``PipelineBackbone``."""
        pipeline, embeds, (rows, channels, height, width) = self._pipeline, text["embeds"], latents.shape
        of_text, of_image = self.positions(embeds.shape[1], height // 2, width // 2)
        output = self.transformer(
            hidden_states=pipeline._pack_latents(latents, rows, channels, height, width),
            timestep=timesteps / 1000,
            encoder_hidden_states=embeds,
            txt_ids=send(of_text, embeds.device),
            img_ids=send(of_image, embeds.device),
            return_dict=False,
            **self.inputs(timesteps, text, height * width // 4),
        )[0]
        factor = pipeline.vae_scale_factor
        return pipeline._unpack_latents(output, height * factor, width * factor, factor)

    def positions(
        self, text_tokens: int, rows: int, columns: int
    ) -> tuple[Float[Tensor, "text_tokens 3"], Float[Tensor, "image_tokens 3"]]:
        """Return kind, row and column of each token of the text and of the image, on the CPU."""
        grid = torch.cartesian_prod(torch.zeros(1), torch.arange(rows).float(), torch.arange(columns).float())
        return torch.zeros(text_tokens, 3), grid

    @abstractmethod
    def inputs(
        self, timesteps: Float[Tensor, " rows"], text: Mapping[str, Tensor], image_tokens: int
    ) -> dict[str, Any]:
        """Return the transformer's other arguments."""
