"""FLUX.2-klein, and every model in the format of diffusers' ``Flux2KleinPipeline``."""

from typing import Any, ClassVar

from realgen.policies.backbones.flux2 import Flux2


class Flux2Klein(Flux2):
    """The parts of a ``Flux2KleinPipeline``, called in the order in which that pipeline calls them.

    Every text, with its chat template, is padded to ``max_sequence_length`` tokens.

    Args:
        pretrained: Directory of a ``Flux2KleinPipeline``, or its hub id.
        guidance_scale: Classifier-free guidance w, velocity = v_negative + w (v - v_negative), with two transformer
            rows for each row; at 1 and below there is none. The models distilled to four steps must not have any.
        text_encoder_out_layers: Layers of the text encoder whose outputs are joined, token by token.
        **settings: Of ``PipelineBackbone``.
    """

    pipeline_class: ClassVar[str] = "Flux2KleinPipeline"
    cfg_setting: ClassVar[str] = "guidance_scale"

    def __init__(
        self,
        pretrained: str,
        *,
        guidance_scale: float = 1.0,
        text_encoder_out_layers: tuple[int, ...] = (9, 18, 27),
        **settings: Any,
    ) -> None:
        layers = {"text_encoder_out_layers": text_encoder_out_layers}
        super().__init__(pretrained, guidance_scale=None, cfg_scale=guidance_scale, **layers, **settings)

    def load(self) -> None:
        """Read the pipeline; raise ValueError too if the model is distilled, and there is guidance."""
        super().load()
        if self.guided and self._pipeline.config.is_distilled:
            raise ValueError(
                f"guidance_scale must be at most 1 for {self.pretrained!r}, which is distilled, got {self.cfg_scale}."
            )
