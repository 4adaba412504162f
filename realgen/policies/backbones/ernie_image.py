"""ERNIE-Image, in the format of diffusers' ``ErnieImagePipeline``."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.parallel import send
from realgen.policies.backbones.base import Schedule
from realgen.policies.backbones.one_frame import whole_text
from realgen.policies.backbones.patched import PatchedBackbone


class ErnieImage(PatchedBackbone):
    """The parts of an ``ErnieImagePipeline``, called in the order in which that pipeline calls them.

    The pipeline's language model that rewrites prompts (``pe``) is neither read nor asked: prompts are taken as they
    are, as with the pipeline's ``use_pe=False``. Texts that are longer than ``max_sequence_length`` tokens are cut off.

    Args:
        pretrained: Directory of an ``ErnieImagePipeline``, or its hub id.
        guidance_scale: Classifier-free guidance w, velocity = v_negative + w (v - v_negative), with two transformer
            calls for each; at 1 and below there is none.
        **settings: Of ``PipelineBackbone``.
    """

    pipeline_class: ClassVar[str] = "ErnieImagePipeline"
    unused_parts: ClassVar[tuple[str, ...]] = ("pe", "pe_tokenizer")
    text_is_padded: ClassVar[bool] = False
    patch_size = 1  # the pipeline counts 2 x 2 of the VAE's as one
    batch_norm_eps = 1e-5  # whatever the VAE's config says
    lora_targets: tuple[str, ...] = (
        *(f"self_attention.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")),
        *(f"mlp.{name}" for name in ("gate_proj", "up_proj", "linear_fc2")),
    )

    def __init__(self, pretrained: str, *, guidance_scale: float = 1.0, **settings: Any) -> None:
        super().__init__(pretrained, cfg_scale=guidance_scale, **settings)

    def use_pipeline(self, pipeline: Any) -> None:
        """Take a pipeline's networks, and let its tokenizer cut texts off."""
        super().use_pipeline(pipeline)
        pipeline.tokenizer.model_max_length = self.max_sequence_length
        transformer = pipeline.transformer
        if transformer.device.type == "meta":  # where autocast, which the positions' module turns off, does not exist
            transformer.pos_embed.forward = lambda ids: ids.new_empty(*ids.shape[:2], 1, transformer.head_dim)

    @property
    def vae_factor(self) -> int:
        """Pixels of an image that are one of the VAE's latent, in each direction."""
        return self._pipeline.vae_scale_factor // 2

    def schedule(self, num_steps: int, height: int, width: int) -> Schedule:
        """Return the scheduler's sigmas and timesteps, which do not depend on the size."""
        return self._set_timesteps(sigmas=torch.linspace(1.0, 0.0, num_steps + 1)[:-1])

    def encode(self, prompt: str) -> dict[str, Tensor]:
        """Return token embeddings [tokens, dim] of one prompt and its mask [tokens]."""
        (embeds,) = self._pipeline.encode_prompt([prompt], device=self.device)
        return whole_text(embeds)

    def predict(
        self, latents: Float[Tensor, "rows *latent"], timesteps: Float[Tensor, " rows"], text: Mapping[str, Tensor]
    ) -> Float[Tensor, "rows *latent"]:
        """Return the transformer's velocity, without guidance; see ``PipelineBackbone``."""
        lengths = text["mask"].sum(dim=1)
        return self.transformer(
            hidden_states=latents,
            timestep=timesteps.to(latents.dtype),
            text_bth=text["embeds"][:, : int(lengths.max())],
            text_lens=send(lengths, latents.device),
            return_dict=False,
        )[0]

    def blocks(self) -> list[nn.Module]:
        """Return the blocks."""
        return list(self._pipeline.transformer.layers)
