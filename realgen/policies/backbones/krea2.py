"""Krea 2, in the format of diffusers' ``Krea2Pipeline``."""

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from realgen.policies.backbones.one_frame import OneFrameBackbone, cut_texts, whole_text


class Krea2(OneFrameBackbone):
    """The parts of a ``Krea2Pipeline``, called in the order in which that pipeline calls them.

    Texts that are longer than ``max_sequence_length`` tokens, chat template included, are cut off. The pipeline pads
    shorter ones and masks that; here they are not padded, which is exact, because no token of a text has a position.

    Args:
        pretrained: Directory of a ``Krea2Pipeline``, or its hub id.
        guidance_scale: Classifier-free guidance g as this pipeline counts it, velocity = v + g (v - v_negative), with
            two transformer calls for each; at 0 (the model distilled to few steps) there is none. Elsewhere the same
            is called 1 + g.
        **settings: Of ``PipelineBackbone``.
    """

    pipeline_class: ClassVar[str] = "Krea2Pipeline"
    cfg_off: ClassVar[float] = 0.0
    lora_targets: tuple[str, ...] = (
        *(f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_gate", "to_out.0")),
        *(f"ff.{name}" for name in ("gate", "up", "down")),
    )

    def __init__(self, pretrained: str, *, guidance_scale: float = 0.0, **settings: Any) -> None:
        super().__init__(pretrained, cfg_scale=guidance_scale, **settings)

    def _shift(self, height: int, width: int, num_steps: int) -> float:
        return 1.15 if self._pipeline.config.is_distilled else super()._shift(height, width, num_steps)

    def encode(self, prompt: str) -> dict[str, Tensor]:
        """Return token embeddings [tokens, layers, dim] of one prompt and its mask [tokens]."""
        embeds, mask = self._pipeline.encode_prompt(
            [prompt], device=self.device, max_sequence_length=self.max_sequence_length
        )
        return whole_text(embeds[0, mask[0]])

    def predict(
        self, latents: Float[Tensor, "rows *latent"], timesteps: Float[Tensor, " rows"], text: Mapping[str, Tensor]
    ) -> Float[Tensor, "rows *latent"]:
        """Return the transformer's velocity, without guidance; see ``PipelineBackbone``."""
        pipeline, (height, width) = self._pipeline, latents.shape[2:]
        embeds, mask = cut_texts(text)
        output = self.transformer(
            hidden_states=pipeline._pack_latents(latents, *latents.shape),
            encoder_hidden_states=embeds,
            timestep=(timesteps / 1000).to(latents.dtype),
            position_ids=pipeline.prepare_position_ids(embeds.shape[1], height // 2, width // 2, embeds.device),
            encoder_attention_mask=mask,
            return_dict=False,
        )[0]
        factor = pipeline.vae_scale_factor
        return pipeline._unpack_latents(output, height * factor, width * factor).squeeze(2)
