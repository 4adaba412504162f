"""FLUX.2-klein, and every model in the format of diffusers' ``Flux2KleinPipeline``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.parallel import send
from realgen.policies.backbones.pipeline import JOINT_ATTENTION, PipelineBackbone


class Flux2Klein(PipelineBackbone):
    """The parts of a ``Flux2KleinPipeline``, called in the order in which that pipeline calls them.

    Every text, with its chat template, is padded to ``max_sequence_length`` tokens.

    Args:
        pretrained: Directory of a ``Flux2KleinPipeline``, or its hub id.
        guidance_scale: Classifier-free guidance w, velocity = v_negative + w (v - v_negative), with two transformer
            rows for each row; at 1 and below there is none. The models distilled to four steps must not have any.
        **settings: Of ``PipelineBackbone``.
    """

    pipeline_class: ClassVar[str] = "Flux2KleinPipeline"
    lora_targets: tuple[str, ...] = (
        *JOINT_ATTENTION,
        "ff.linear_in",
        "ff.linear_out",
        "ff_context.linear_in",
        "ff_context.linear_out",
        "to_qkv_mlp_proj",
    )

    def __init__(self, pretrained: str, *, guidance_scale: float = 1.0, **settings: Any) -> None:
        super().__init__(pretrained, cfg_scale=guidance_scale, **settings)

    def load(self) -> None:
        """Read the pipeline; raise ValueError too if the model is distilled, and there is guidance."""
        super().load()
        if self.guided and self._pipeline.config.is_distilled:
            raise ValueError(
                f"guidance_scale must be at most 1 for {self.pretrained!r}, which is distilled, got {self.cfg_scale}."
            )

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Return (C, h, w) of one image's latent, in which 2 x 2 pixels of the VAE's latent are one."""
        return (self._pipeline.transformer.config.in_channels, *self.tokens(height, width))

    def _shift(self, height: int, width: int, num_steps: int) -> float:
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        rows, columns = self.tokens(height, width)
        return compute_empirical_mu(rows * columns, num_steps)

    def encode(self, prompt: str) -> dict[str, Tensor]:
        """Return token embeddings [tokens, dim] of one prompt, from three layers of the text encoder."""
        embeds, _ = self._pipeline.encode_prompt(
            [prompt], device=self.device, max_sequence_length=self.max_sequence_length
        )
        return {"embeds": embeds[0]}

    def predict(
        self, latents: Float[Tensor, "rows *latent"], timesteps: Float[Tensor, " rows"], text: Mapping[str, Tensor]
    ) -> Float[Tensor, "rows *latent"]:
        """Return the transformer's velocity, without guidance; see ``PipelineBackbone``."""
        pipeline, embeds = self._pipeline, text["embeds"]
        output = self.transformer(
            hidden_states=pipeline._pack_latents(latents),
            timestep=timesteps / 1000,
            encoder_hidden_states=embeds,
            txt_ids=send(pipeline._prepare_text_ids(embeds[:1]), embeds.device),
            img_ids=send(pipeline._prepare_latent_ids(latents[:1]), embeds.device),
            return_dict=False,
        )[0]
        return output.transpose(1, 2).reshape(latents.shape)

    def vae_latents(
        self, latents: Float[Tensor, "rows channels h w"]
    ) -> Float[Tensor, "rows vae_channels vae_h vae_w"]:
        """Return latents on the scale, and of the shape, that the VAE decodes."""
        mean, std = self._scale()
        return self._pipeline._unpatchify_latents(latents * std + mean)

    def from_vae(self, latents: Float[Tensor, "rows vae_channels vae_h vae_w"]) -> Float[Tensor, "rows channels h w"]:
        """Return the policy's latents of those of the VAE."""
        mean, std = self._scale()
        return (self._pipeline._patchify_latents(latents) - mean) / std

    def _scale(self) -> tuple[Tensor, Tensor]:
        vae = self._pipeline.vae
        mean, variance = (part.view(1, -1, 1, 1) for part in (vae.bn.running_mean, vae.bn.running_var))
        return mean, torch.sqrt(variance + vae.config.batch_norm_eps)
