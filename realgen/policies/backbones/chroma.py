"""Chroma (FLUX.1-schnell without its modulation networks), in the format of diffusers' ``ChromaPipeline``."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.policies.backbones.packed import PackedBackbone


class Chroma(PackedBackbone):
    """The parts of a ``ChromaPipeline``, called in the order in which that pipeline calls them.

    T5 pads every text to ``max_sequence_length`` tokens. As in the pipeline, attention to padding, but for its first
    token, is not cut off: the logits of all pairs of other tokens are larger by 1.

    Args:
        pretrained: Directory of a ``ChromaPipeline``, or its hub id.
        guidance_scale: Classifier-free guidance w, velocity = v_negative + w (v - v_negative), with two transformer
            rows for each row; at 1 and below there is none.
        **settings: Of ``PipelineBackbone``.
    """

    pipeline_class: ClassVar[str] = "ChromaPipeline"

    def __init__(self, pretrained: str, *, guidance_scale: float = 1.0, **settings: Any) -> None:
        super().__init__(pretrained, cfg_scale=guidance_scale, **settings)

    def encode(self, prompt: str) -> dict[str, Tensor]:
        """Return token embeddings [tokens, dim] of T5, and what attention adds for each [tokens]."""
        embeds, _, added, *_ = self._pipeline.encode_prompt(
            prompt=[prompt],
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
        )
        return {"embeds": embeds[0], "added": added[0]}

    def inputs(
        self, timesteps: Float[Tensor, " rows"], text: Mapping[str, Tensor], image_tokens: int
    ) -> dict[str, Any]:
        """Return what attention adds for each token of text and image."""
        added = torch.nn.functional.pad(text["added"], (0, image_tokens), value=1.0)
        transformer = self._pipeline.transformer
        if transformer.gradient_checkpointing:
            # The model checkpoints its blocks of one stream without this argument, and would train another function.
            checkpoint = transformer._gradient_checkpointing_func
            plain = getattr(checkpoint, "keywords", {}).get("plain", checkpoint)
            transformer._gradient_checkpointing_func = partial(_checkpoint_with, plain=plain, added=added)
        return {"attention_mask": added}


def _checkpoint_with(block: Any, *args: Any, plain: Any, added: Tensor) -> Any:
    from diffusers.models.transformers.transformer_chroma import ChromaSingleTransformerBlock

    return plain(block, *args, added) if isinstance(block, ChromaSingleTransformerBlock) else plain(block, *args)
