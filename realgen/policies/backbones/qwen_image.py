"""Qwen-Image (arXiv:2508.02324), and every model in the format of diffusers' ``QwenImagePipeline``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.parallel import send
from realgen.policies.backbones.pipeline import JOINT_ATTENTION, PipelineBackbone


class QwenImage(PipelineBackbone):
    """The parts of a ``QwenImagePipeline``, called in the order in which that pipeline calls them.

    The model discards its last block's output on the text side, so adapters there would never get a gradient, which
    breaks data parallelism and a resumed optimizer: by default that block's text side has none.
    ``max_sequence_length`` is at most 1024, and longer texts are cut off. As the ``negative_prompt`` of guidance the
    model's authors give a single space.

    Args:
        pretrained: Directory of a ``QwenImagePipeline``, or its hub id.
        true_cfg_scale: Classifier-free guidance w, velocity = v_negative + w (v - v_negative), each token of it then
            brought to the norm of v; two transformer calls for each. At 1 and below there is none.
        **settings: Of ``PipelineBackbone``.
    """

    pipeline_class: ClassVar[str] = "QwenImagePipeline"
    longest_text: ClassVar[int] = 1024
    cfg_setting: ClassVar[str] = "true_cfg_scale"
    text_is_padded: ClassVar[bool] = False
    lora_targets: tuple[str, ...] = (*JOINT_ATTENTION[:-1], "img_mlp.net.0.proj", "img_mlp.net.2")
    text_targets: ClassVar[tuple[str, ...]] = ("attn.to_add_out", "txt_mlp.net.0.proj", "txt_mlp.net.2")
    """The same in every block but the last."""

    def __init__(self, pretrained: str, *, true_cfg_scale: float = 1.0, **settings: Any) -> None:
        super().__init__(pretrained, cfg_scale=true_cfg_scale, **settings)

    def load(self) -> None:
        """Read the pipeline; adapters leave out the text side of its last block."""
        super().load()
        in_use = range(len(self.blocks()) - 1)
        text = [f"transformer_blocks.{block}.{name}" for block in in_use for name in self.text_targets]
        self.lora_targets = (*type(self).lora_targets, *text)

    @property
    def latent_channels(self) -> int:
        """Channels C of a latent."""
        return self._pipeline.vae.config.z_dim

    def encode(self, prompt: str) -> dict[str, Tensor]:
        """Return token embeddings [tokens, dim] of one prompt and its mask [tokens]."""
        embeds, _ = self._pipeline.encode_prompt(
            [prompt], device=self.device, max_sequence_length=self.max_sequence_length
        )
        return {"embeds": embeds[0], "mask": torch.ones(embeds.shape[1], dtype=torch.bool)}

    def predict(
        self, latents: Float[Tensor, "rows *latent"], timesteps: Float[Tensor, " rows"], text: Mapping[str, Tensor]
    ) -> Float[Tensor, "rows *latent"]:
        """Return the transformer's velocity, without guidance; see ``PipelineBackbone``.

        Texts are cut to the longest of these rows, and masked only where they differ in length.
        """
        rows, _, height, width = latents.shape
        lengths = text["mask"].sum(dim=1).tolist()
        longest = max(lengths)
        mask = None if min(lengths) == longest else send(text["mask"][:, :longest], latents.device)
        output = self.transformer(
            hidden_states=self._pack(latents),
            timestep=timesteps / 1000,
            encoder_hidden_states=text["embeds"][:, :longest],
            encoder_hidden_states_mask=mask,
            img_shapes=[[(1, height // 2, width // 2)]] * rows,
            return_dict=False,
        )[0]
        return self._unpack(output, height, width)

    def combine(
        self, positive: Float[Tensor, "rows *latent"], negative: Float[Tensor, "rows *latent"]
    ) -> Float[Tensor, "rows *latent"]:
        """Apply guidance, v_negative + w (v - v_negative), each token at the norm that it has in v."""
        guided, plain = self._pack(super().combine(positive, negative)), self._pack(positive)
        norms = [part.norm(dim=-1, keepdim=True) for part in (plain, guided)]
        return self._unpack(guided * (norms[0] / norms[1]), *positive.shape[2:])

    def _pack(self, latents: Tensor) -> Tensor:
        return self._pipeline._pack_latents(latents, *latents.shape)

    def _unpack(self, tokens: Tensor, height: int, width: int) -> Tensor:
        factor = self._pipeline.vae_scale_factor
        return self._pipeline._unpack_latents(tokens, height * factor, width * factor, factor).squeeze(2)

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
