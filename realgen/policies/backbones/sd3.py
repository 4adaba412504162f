"""Stable Diffusion 3 and 3.5 (arXiv:2403.03206), and every model in the format of diffusers' pipeline of that name.

SD3.5's RMS norms of queries and keys, and the second attention in the first blocks of the medium model, are in the
transformer's own config. Skip-layer guidance, an option of the pipeline, is not used.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from realgen.policies.backbones.base import Schedule
from realgen.policies.backbones.pipeline import JOINT_ATTENTION, PipelineBackbone


class SD3(PipelineBackbone):
    """The parts of a ``StableDiffusion3Pipeline``, called in the order in which that pipeline calls them.

    Args:
        pretrained: Directory of a ``StableDiffusion3Pipeline``, or its hub id.
        guidance_scale: Classifier-free guidance w, velocity = v_negative + w (v - v_negative), with two transformer
            rows for each row; at 1 and below there is no guidance.
        max_sequence_length: Tokens of the T5 encoder, 1 to 512. A pipeline without T5 still pads its text with so many
            zeros, and attends to them.
        **settings: Of ``PipelineBackbone``.
    """

    pipeline_class: ClassVar[str] = "StableDiffusion3Pipeline"
    lora_targets: tuple[str, ...] = JOINT_ATTENTION

    def __init__(
        self, pretrained: str, *, guidance_scale: float = 1.0, max_sequence_length: int = 256, **settings: Any
    ) -> None:
        super().__init__(pretrained, cfg_scale=guidance_scale, max_sequence_length=max_sequence_length, **settings)

    @property
    def patch_size(self) -> int:
        """Latent pixels that are one token, in each direction."""
        return self._pipeline.patch_size

    def schedule(self, num_steps: int, height: int, width: int) -> Schedule:
        """Return sigmas and timesteps of the pipeline's own scheduler, its resolution-dependent shift included."""
        shifts = self._pipeline.scheduler.config.use_dynamic_shifting
        return self._set_timesteps(num_steps, **({"mu": self._shift(height, width, num_steps)} if shifts else {}))

    def encode(self, prompt: str) -> dict[str, Tensor]:
        """Return token embeddings [tokens, dim] and pooled embedding [dim] of one prompt."""
        embeds, _, pooled, _ = self._pipeline.encode_prompt(
            prompt=[prompt],
            prompt_2=None,
            prompt_3=None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
        )
        return {"embeds": embeds[0], "pooled": pooled[0]}

    def predict(
        self, latents: Float[Tensor, "rows *latent"], timesteps: Float[Tensor, " rows"], text: Mapping[str, Tensor]
    ) -> Float[Tensor, "rows *latent"]:
        """Return the transformer's velocity, without guidance; see ``PipelineBackbone``."""
        return self.transformer(
            hidden_states=latents,
            timestep=timesteps,
            encoder_hidden_states=text["embeds"],
            pooled_projections=text["pooled"],
            return_dict=False,
        )[0]
