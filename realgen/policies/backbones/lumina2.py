"""Lumina-Image 2.0 (arXiv:2503.21758), and every model in the format of diffusers' ``Lumina2Pipeline``."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.parallel import send
from realgen.policies.backbones.one_frame import whole_text
from realgen.policies.backbones.pipeline import PipelineBackbone


class Lumina2(PipelineBackbone):
    """The parts of a ``Lumina2Pipeline``, called in the order in which that pipeline calls them.

    As in the pipeline, every prompt follows the system prompt, and the negative prompt follows none. The pipeline pads
    texts and drops the padding inside the transformer; here it never gets there, which is exact. Guidance is in every
    step, as with the pipeline's ``cfg_trunc_ratio=1``.

    Args:
        pretrained: Directory of a ``Lumina2Pipeline``, or its hub id.
        guidance_scale: Classifier-free guidance w, velocity = v_negative + w (v - v_negative), with two transformer
            calls for each; at 1 and below there is none.
        cfg_normalization: Whether each row of latent pixels of the guided velocity, channel by channel, is brought to
            the norm that it has in v.
        system_prompt: What every prompt follows; ``None``: the pipeline's own.
        max_sequence_length: Text tokens, the system prompt's too, fewer than the model's positions for them (300).
        **settings: Of ``PipelineBackbone``.
    """

    pipeline_class: ClassVar[str] = "Lumina2Pipeline"
    text_is_padded: ClassVar[bool] = False
    lora_targets: tuple[str, ...] = (
        *(f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")),
        *(f"feed_forward.linear_{number}" for number in (1, 2, 3)),
    )

    def __init__(
        self,
        pretrained: str,
        *,
        guidance_scale: float = 1.0,
        cfg_normalization: bool = True,
        system_prompt: str | None = None,
        max_sequence_length: int = 256,
        **settings: Any,
    ) -> None:
        super().__init__(pretrained, cfg_scale=guidance_scale, max_sequence_length=max_sequence_length, **settings)
        self.cfg_normalization, self.system_prompt = cfg_normalization, system_prompt
        self._lengths = torch.ones(0, 0)

    def use_pipeline(self, pipeline: Any) -> None:
        """Take a pipeline's networks; ValueError too where its transformer has too few positions for the text."""
        super().use_pipeline(pipeline)
        positions = pipeline.transformer.rope_embedder
        if self.max_sequence_length >= (most := positions.axes_lens[0]):
            raise ValueError(
                f"max_sequence_length must be below {most}, the positions of {self.pretrained!r}, "
                f"got {self.max_sequence_length}."
            )
        # It reads the texts' lengths from their mask, for which the host would wait for the device.
        positions.register_forward_pre_hook(lambda _, args: (args[0], self._lengths))

    def _shift(self, height: int, width: int, num_steps: int) -> float:
        from diffusers.pipelines.lumina2.pipeline_lumina2 import calculate_shift

        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        settings = [self._pipeline.scheduler.config[name] for name in names]
        return calculate_shift(self.latent_channels, *settings)  # sic: by the channels, whatever the size

    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Embed prompts, each after the system prompt; see ``Backbone``."""
        system = self._pipeline.system_prompt if self.system_prompt is None else self.system_prompt
        return super().encode_prompts([f"{system} <Prompt Start> {prompt}" for prompt in prompts])

    def encode(self, prompt: str) -> dict[str, Tensor]:
        """Return token embeddings [tokens, dim] of one text as it is, and its mask [tokens]."""
        embeds, mask = self._pipeline._get_gemma_prompt_embeds([prompt], self.device, self.max_sequence_length)
        return whole_text(embeds[0, mask[0].bool()])

    def predict(
        self, latents: Float[Tensor, "rows *latent"], timesteps: Float[Tensor, " rows"], text: Mapping[str, Tensor]
    ) -> Float[Tensor, "rows *latent"]:
        """Return the velocity, without guidance, of a model of data minus noise, whose time rises from noise to 1."""
        positions = self._pipeline.transformer.rope_embedder
        positions.freqs_cis = [part.to(latents.device) for part in positions.freqs_cis]  # there after the first call
        longest = int(text["mask"].sum(dim=1).max())
        self._lengths = text["mask"][:, :longest]
        return -self.transformer(
            hidden_states=latents,
            timestep=1 - timesteps / 1000,
            encoder_hidden_states=text["embeds"][:, :longest],
            encoder_attention_mask=send(self._lengths, latents.device),
            return_dict=False,
        )[0]

    def combine(
        self, positive: Float[Tensor, "rows *latent"], negative: Float[Tensor, "rows *latent"]
    ) -> Float[Tensor, "rows *latent"]:
        """Apply guidance, v_negative + w (v - v_negative), then each row of pixels at the norm that it has in v."""
        guided = super().combine(positive, negative)
        if not self.cfg_normalization:
            return guided
        norms = [torch.linalg.vector_norm(part, dim=-1, keepdim=True) for part in (positive, guided)]
        return guided * (norms[0] / norms[1])

    def blocks(self) -> list[nn.Module]:
        """Return the blocks of the image alone, of the text alone, then those of both, which checkpointing is for."""
        transformer = self._pipeline.transformer
        return [*transformer.noise_refiner, *transformer.context_refiner, *transformer.layers]
