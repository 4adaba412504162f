"""Qwen-Image (arXiv:2508.02324), and every model in the format of diffusers' ``QwenImagePipeline``."""

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from realgen.policies.backbones.one_frame import OneFrameBackbone, cut_texts, whole_text
from realgen.policies.backbones.pipeline import JOINT_ATTENTION


class QwenImage(OneFrameBackbone):
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

    def encode(self, prompt: str) -> dict[str, Tensor]:
        """Return token embeddings [tokens, dim] of one prompt and its mask [tokens]."""
        embeds, _ = self._pipeline.encode_prompt(
            [prompt], device=self.device, max_sequence_length=self.max_sequence_length
        )
        return whole_text(embeds[0])

    def predict(
        self, latents: Float[Tensor, "rows *latent"], timesteps: Float[Tensor, " rows"], text: Mapping[str, Tensor]
    ) -> Float[Tensor, "rows *latent"]:
        """Return the velocity without guidance, of texts cut to the longest and masked where they differ in length."""
        rows, _, height, width = latents.shape
        embeds, mask = cut_texts(text)
        output = self.transformer(
            hidden_states=self._pack(latents),
            timestep=timesteps / 1000,
            encoder_hidden_states=embeds,
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
