"""FLUX.2-dev, and every model in the format of diffusers' ``Flux2Pipeline``."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.checks import check_at_least
from realgen.logging_filters import errors_only
from realgen.parallel import send
from realgen.policies.backbones.patched import PatchedBackbone
from realgen.policies.backbones.pipeline import JOINT_ATTENTION
from realgen.policies.backbones.pipeline_options import check_guidance_input


class Flux2(PatchedBackbone):
    """The parts of a ``Flux2Pipeline``, called in the order in which that pipeline calls them.

    Every text, with the system message and the chat template, is padded to ``max_sequence_length`` tokens. The pipeline
    has no ``cfg_scale`` and no ``negative_prompt``: with them the model does more than it was distilled for.

    Args:
        pretrained: Directory of a ``Flux2Pipeline``, or its hub id.
        guidance_scale: The distilled guidance, an input of the transformer, at no cost; at least 0. ``None`` for a
            model without this input.
        text_encoder_out_layers: Layers of the text encoder whose outputs are joined, token by token.
        **settings: Of ``PipelineBackbone``.
    """

    pipeline_class: ClassVar[str] = "Flux2Pipeline"
    cfg_setting: ClassVar[str] = "cfg_scale"
    lora_targets: tuple[str, ...] = (
        *JOINT_ATTENTION,
        *(f"{part}.linear_{side}" for part in ("ff", "ff_context") for side in ("in", "out")),
        "to_qkv_mlp_proj",
    )

    def __init__(
        self,
        pretrained: str,
        *,
        guidance_scale: float | None = 4.0,
        text_encoder_out_layers: tuple[int, ...] = (10, 20, 30),
        **settings: Any,
    ) -> None:
        super().__init__(pretrained, **settings)
        check_at_least(0, guidance_scale=guidance_scale)
        self.guidance_input, self.text_encoder_out_layers = guidance_scale, tuple(text_encoder_out_layers)

    def load(self) -> None:
        """Read the pipeline; raise ValueError too where the distilled guidance does not fit the model."""
        super().load()
        check_guidance_input(self, self.guidance_input)

    def _shift(self, height: int, width: int, num_steps: int) -> float:
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        rows, columns = self.tokens(height, width)
        return compute_empirical_mu(rows * columns, num_steps)

    def encode(self, prompt: str) -> dict[str, Tensor]:
        """Return token embeddings [tokens, dim] of one prompt, from several layers of the text encoder."""
        with errors_only():  # of arguments that the pipeline gives to a processor of texts and images
            embeds, _ = self._pipeline.encode_prompt(
                [prompt],
                device=self.device,
                max_sequence_length=self.max_sequence_length,
                text_encoder_out_layers=self.text_encoder_out_layers,
            )
        return {"embeds": embeds[0]}

    def predict(
        self, latents: Float[Tensor, "rows *latent"], timesteps: Float[Tensor, " rows"], text: Mapping[str, Tensor]
    ) -> Float[Tensor, "rows *latent"]:
        """Return the transformer's velocity, without guidance by a second row; see ``PipelineBackbone``."""
        pipeline, embeds = self._pipeline, text["embeds"]
        scale = self.guidance_input
        place = torch.arange(embeds.shape[1], device=embeds.device)
        output = self.transformer(
            hidden_states=pipeline._pack_latents(latents),
            timestep=timesteps / 1000,
            guidance=None if scale is None else timesteps.new_full(timesteps.shape, scale),
            encoder_hidden_states=embeds,
            txt_ids=torch.nn.functional.pad(place.unsqueeze(1), (3, 0)),
            img_ids=send(pipeline._prepare_latent_ids(latents[:1]), embeds.device),
            return_dict=False,
        )[0]
        return output.transpose(1, 2).reshape(latents.shape)
