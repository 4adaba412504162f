"""FLUX.2-klein, and every model in the format of diffusers' ``Flux2KleinPipeline``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.policies.backbones.pipeline import Dtype, PipelineBackbone


class Flux2Klein(PipelineBackbone):
    """The parts of a ``Flux2KleinPipeline``, called in the order in which that pipeline calls them.

    Args:
        pretrained: Directory of a ``Flux2KleinPipeline``, or its hub id.
        guidance_scale: Classifier-free guidance w, velocity = v_negative + w (v - v_negative), with two transformer
            rows for each row; at 1 and below there is none. The models distilled to four steps must not have any.
        negative_prompt: What guidance leads away from.
        max_sequence_length: Tokens of a text with its chat template, 1 to 512; every text is padded to so many.
        dtype: Type of the transformer and the text encoder; the VAE is always float32. For full fine-tuning take
            float32 and let the trainer's precision do the rest.
        cache_size: Prompts whose text embeddings are kept, the most recently used first, at least 1.
        local_files_only: Whether a hub id is looked for only among the files already on this machine.
    """

    pipeline_class: ClassVar[str] = "Flux2KleinPipeline"
    lora_targets: tuple[str, ...] = (
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
        "ff.linear_in",
        "ff.linear_out",
        "ff_context.linear_in",
        "ff_context.linear_out",
        "to_qkv_mlp_proj",
    )

    def __init__(
        self,
        pretrained: str,
        *,
        guidance_scale: float = 1.0,
        negative_prompt: str = "",
        max_sequence_length: int = 512,
        dtype: Dtype = "float32",
        cache_size: int = 256,
        local_files_only: bool = True,
    ) -> None:
        super().__init__(
            pretrained,
            cfg_scale=guidance_scale,
            negative_prompt=negative_prompt,
            max_sequence_length=max_sequence_length,
            dtype=dtype,
            cache_size=cache_size,
            local_files_only=local_files_only,
        )
        self.guidance_scale = guidance_scale

    def load(self) -> None:
        """Read the pipeline onto the CPU; a second call does nothing.

        Raises:
            ValueError: If ``pretrained`` holds no ``Flux2KleinPipeline``.
            ValueError: If the model is distilled, and there is guidance.
        """
        super().load()
        if self.guided and self._pipeline.config.is_distilled:
            raise ValueError(
                f"guidance_scale must be at most 1 for {self.pretrained!r}, which is distilled, "
                f"got {self.guidance_scale}."
            )

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        """(C, h, w) of one image's latent, in which 2 x 2 pixels of the VAE are one; see ``PipelineBackbone``."""
        return (self._pipeline.transformer.config.in_channels, *self.tokens(height, width))

    def _shift(self, height: int, width: int, num_steps: int) -> float:
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        rows, columns = self.tokens(height, width)
        return compute_empirical_mu(rows * columns, num_steps)

    def encode(self, prompt: str) -> dict[str, Tensor]:
        """Token embeddings [tokens, dim] of one prompt, from three layers of the text encoder."""
        embeds, _ = self._pipeline.encode_prompt(
            [prompt], device=self.device, max_sequence_length=self.max_sequence_length
        )
        return {"embeds": embeds[0]}

    def predict(
        self, latents: Float[Tensor, "rows *latent"], timesteps: Float[Tensor, " rows"], text: Mapping[str, Tensor]
    ) -> Float[Tensor, "rows *latent"]:
        """The transformer's velocity, without guidance; see ``PipelineBackbone``."""
        pipeline, embeds = self._pipeline, text["embeds"]
        output = self.transformer(
            hidden_states=pipeline._pack_latents(latents),
            timestep=timesteps / 1000,
            encoder_hidden_states=embeds,
            txt_ids=pipeline._prepare_text_ids(embeds[:1]).to(embeds.device),
            img_ids=pipeline._prepare_latent_ids(latents[:1]).to(embeds.device),
            return_dict=False,
        )[0]
        return output.transpose(1, 2).reshape(latents.shape)

    def vae_latents(
        self, latents: Float[Tensor, "rows channels h w"]
    ) -> Float[Tensor, "rows vae_channels vae_h vae_w"]:
        """Latents on the scale, and of the shape, that the VAE decodes."""
        vae = self._pipeline.vae
        mean, variance = (part.view(1, -1, 1, 1) for part in (vae.bn.running_mean, vae.bn.running_var))
        return self._pipeline._unpatchify_latents(latents * torch.sqrt(variance + vae.config.batch_norm_eps) + mean)

    def blocks(self) -> list[nn.Module]:
        """The blocks of two streams, then those of one."""
        transformer = self._pipeline.transformer
        return [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
