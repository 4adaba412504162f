"""Z-Image and Z-Image-Turbo (arXiv:2511.22699), in the format of diffusers' ``ZImagePipeline``."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.checks import check_at_least
from realgen.policies.backbones.pipeline import PipelineBackbone


class ZImage(PipelineBackbone):
    """The parts of a ``ZImagePipeline``, called in the order in which that pipeline calls them.

    Texts that are longer than ``max_sequence_length`` tokens, chat template included, are cut off.

    Args:
        pretrained: Directory of a ``ZImagePipeline``, or its hub id.
        guidance_scale: Classifier-free guidance g as this pipeline counts it, velocity = v + g (v - v_negative), with
            two transformer calls for each; at 0 (Z-Image-Turbo) there is none. Elsewhere the same is called 1 + g.
        cfg_normalization: Largest norm of an image's guided velocity, as a multiple of the norm of v; longer ones are
            cut to it. 0: no limit. 1 is the pipeline's ``cfg_normalization=True``.
        **settings: Of ``PipelineBackbone``.
    """

    pipeline_class: ClassVar[str] = "ZImagePipeline"
    cfg_off: ClassVar[float] = 0.0
    text_is_padded: ClassVar[bool] = False
    lora_targets: tuple[str, ...] = (
        *(f"attention.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")),
        *(f"feed_forward.w{number}" for number in (1, 2, 3)),
    )

    def __init__(
        self, pretrained: str, *, guidance_scale: float = 0.0, cfg_normalization: float = 0.0, **settings: Any
    ) -> None:
        super().__init__(pretrained, cfg_scale=guidance_scale, **settings)
        check_at_least(0, cfg_normalization=cfg_normalization)
        if cfg_normalization and not self.guided:
            raise ValueError(f"cfg_normalization has an effect only with guidance_scale above 0, got {guidance_scale}.")
        self.cfg_normalization = cfg_normalization

    def encode(self, prompt: str) -> dict[str, Tensor]:
        """Return token embeddings [tokens, dim] of one prompt and its mask [tokens]."""
        (embeds,), _ = self._pipeline.encode_prompt(
            [prompt],
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
        )
        return {"embeds": embeds, "mask": torch.ones(len(embeds), dtype=torch.bool)}

    def predict(
        self, latents: Float[Tensor, "rows *latent"], timesteps: Float[Tensor, " rows"], text: Mapping[str, Tensor]
    ) -> Float[Tensor, "rows *latent"]:
        """Return the velocity of a model of data minus noise, whose time rises to 1, and that takes a list of clips."""
        lengths = text["mask"].sum(dim=1).tolist()
        clips = self.transformer(
            list(latents.unsqueeze(2).unbind()),
            (1000 - timesteps) / 1000,
            [embeds[:length] for embeds, length in zip(text["embeds"], lengths, strict=True)],
            return_dict=False,
        )[0]
        return -torch.stack(clips).squeeze(2)

    def combine(
        self, positive: Float[Tensor, "rows *latent"], negative: Float[Tensor, "rows *latent"]
    ) -> Float[Tensor, "rows *latent"]:
        """Apply guidance, v + g (v - v_negative), then the limit on its norm."""
        guided = positive + self.cfg_scale * (positive - negative)
        if not self.cfg_normalization:
            return guided
        norms = [torch.linalg.vector_norm(part, dim=(1, 2, 3), keepdim=True) for part in (positive, guided)]
        return guided * (self.cfg_normalization * norms[0] / norms[1]).clamp(max=1)

    def blocks(self) -> list[nn.Module]:
        """Return the blocks of the image alone, of the text alone, then those of both."""
        transformer = self._pipeline.transformer
        return [*transformer.noise_refiner, *transformer.context_refiner, *transformer.layers]
