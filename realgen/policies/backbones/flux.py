"""FLUX.1-dev, and every model in the format of diffusers' pipeline of that name (FLUX.1-schnell, FLUX.1-Krea-dev)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from realgen.checks import check_at_least
from realgen.policies.backbones.packed import PackedBackbone
from realgen.policies.backbones.pipeline_options import check_guidance_input


class Flux(PackedBackbone):
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
        check_guidance_input(self, self.guidance_scale)

    def encode(self, prompt: str) -> dict[str, Tensor]:
        """Return token embeddings [tokens, dim] of T5 and pooled embedding [dim] of CLIP."""
        embeds, pooled, _ = self._pipeline.encode_prompt(
            prompt=[prompt], device=self.device, max_sequence_length=self.max_sequence_length
        )
        return {"embeds": embeds[0], "pooled": pooled[0]}

    def inputs(
        self, timesteps: Float[Tensor, " rows"], text: Mapping[str, Tensor], image_tokens: int
    ) -> dict[str, Any]:
        """Return the distilled guidance and CLIP's pooled embedding."""
        guidance = None if self.guidance_scale is None else timesteps.new_full(timesteps.shape, self.guidance_scale)
        return {"guidance": guidance, "pooled_projections": text["pooled"]}
