"""FLUX.1-dev, and every model in the format of diffusers' pipeline of that name (FLUX.1-schnell, FLUX.1-Krea-dev)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.checks import check_at_least
from realgen.parallel import send
from realgen.policies.backbones.pipeline import JOINT_ATTENTION, PipelineBackbone


class Flux(PipelineBackbone):
    """The parts of a ``FluxPipeline``, called in the order in which that pipeline calls them.

    T5 pads every text to ``max_sequence_length`` tokens.

    Args:
        pretrained: Directory of a ``FluxPipeline``, or its hub id.
        guidance_scale: The distilled guidance, an input of the transformer, at no cost; at least 0. ``None`` for a
            model without this input (FLUX.1-schnell).
        true_cfg_scale: Classifier-free guidance w on top, velocity = v_negative + w (v - v_negative), with two
            transformer rows for each row; at 1 and below there is none.
        **settings: Of ``PipelineBackbone``.
    """

    pipeline_class: ClassVar[str] = "FluxPipeline"
    cfg_setting: ClassVar[str] = "true_cfg_scale"
    lora_targets: tuple[str, ...] = (
        *JOINT_ATTENTION,
        "ff.net.0.proj",
        "ff.net.2",
        "ff_context.net.0.proj",
        "ff_context.net.2",
    )

    def __init__(
        self,
        pretrained: str,
        *,
        guidance_scale: float | None = 3.5,
        true_cfg_scale: float = 1.0,
        **settings: Any,
    ) -> None:
        super().__init__(pretrained, cfg_scale=true_cfg_scale, **settings)
        check_at_least(0, guidance_scale=guidance_scale)
        self.guidance_scale = guidance_scale

    def load(self) -> None:
        """Read the pipeline; raise ValueError too where ``guidance_scale`` does not fit the model."""
        super().load()
        takes_guidance = self._pipeline.transformer.config.guidance_embeds
        if takes_guidance != (self.guidance_scale is not None):
            expected = "a number, an input of the model" if takes_guidance else "null, as the model has no such input"
            raise ValueError(f"guidance_scale must be {expected}, for {self.pretrained!r}, got {self.guidance_scale}.")

    def encode(self, prompt: str) -> dict[str, Tensor]:
        """Return token embeddings [tokens, dim] of T5 and pooled embedding [dim] of CLIP."""
        embeds, pooled, _ = self._pipeline.encode_prompt(
            prompt=[prompt], device=self.device, max_sequence_length=self.max_sequence_length
        )
        return {"embeds": embeds[0], "pooled": pooled[0]}

    def predict(
        self, latents: Float[Tensor, "rows *latent"], timesteps: Float[Tensor, " rows"], text: Mapping[str, Tensor]
    ) -> Float[Tensor, "rows *latent"]:
        """Return the transformer's velocity, without ``true_cfg_scale``; see ``PipelineBackbone``."""
        pipeline, embeds, (rows, channels, height, width) = self._pipeline, text["embeds"], latents.shape
        ids = pipeline._prepare_latent_image_ids(rows, height // 2, width // 2, torch.device("cpu"), embeds.dtype)
        guidance = None if self.guidance_scale is None else timesteps.new_full((rows,), self.guidance_scale)
        output = self.transformer(
            hidden_states=pipeline._pack_latents(latents, rows, channels, height, width),
            timestep=timesteps / 1000,
            guidance=guidance,
            pooled_projections=text["pooled"],
            encoder_hidden_states=embeds,
            txt_ids=embeds.new_zeros(embeds.shape[1], 3),
            img_ids=send(ids, embeds.device),
            return_dict=False,
        )[0]
        factor = pipeline.vae_scale_factor
        return pipeline._unpack_latents(output, height * factor, width * factor, factor)
