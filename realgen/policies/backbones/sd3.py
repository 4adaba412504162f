"""Stable Diffusion 3 and 3.5 (arXiv:2403.03206), and every model in the format of diffusers' pipeline of that name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.policies.backbones.base import Backbone, Schedule


class SD3(Backbone):
    """The parts of a ``StableDiffusion3Pipeline``, called in the order in which that pipeline calls them.

    Args:
        pretrained: Directory of a ``StableDiffusion3Pipeline``, or its hub id.
        guidance_scale: Classifier-free guidance w, velocity = v_negative + w (v - v_negative), with two transformer
            rows for each row; at 1 and below there is no guidance.
        negative_prompt: What guidance leads away from.
        max_sequence_length: Tokens of the T5 encoder, 1 to 512. A pipeline without T5 still pads its text with so many
            zeros, and attends to them.
        dtype: Type of the transformer and the text encoders; the VAE is always float32. For full fine-tuning take
            float32 and let the trainer's precision do the rest.
        cache_size: Prompts whose text embeddings are kept, the most recently used first, at least 1.
        local_files_only: Whether a hub id is looked for only among the files already on this machine.
    """

    lora_targets: ClassVar[tuple[str, ...]] = (
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
    )

    def __init__(
        self,
        pretrained: str,
        *,
        guidance_scale: float = 1.0,
        negative_prompt: str = "",
        max_sequence_length: int = 256,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        cache_size: int = 256,
        local_files_only: bool = True,
    ) -> None:
        super().__init__(
            pretrained, guidance_scale=guidance_scale, negative_prompt=negative_prompt, cache_size=cache_size
        )
        if not 1 <= max_sequence_length <= 512:
            raise ValueError(f"max_sequence_length must be between 1 and 512, got {max_sequence_length}.")
        self.max_sequence_length = max_sequence_length
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.local_files_only = local_files_only
        self._pipeline: Any = None

    def load(self) -> None:
        """Read the pipeline onto the CPU; a second call does nothing.

        Raises:
            ValueError: If ``pretrained`` holds no ``StableDiffusion3Pipeline``.
        """
        if self._pipeline is not None:
            return
        from diffusers import StableDiffusion3Pipeline

        where: dict[str, Any] = {"local_files_only": self.local_files_only}
        try:
            index = StableDiffusion3Pipeline.load_config(self.pretrained, **where)
            without_t5 = index.get("text_encoder_3", [None])[0] is None
            absent = {"text_encoder_3": None, "tokenizer_3": None} if without_t5 else {}  # diffusers wants it said
            with torch.device("cpu"), _no_loading_bars():
                pipeline: Any = StableDiffusion3Pipeline.from_pretrained(
                    self.pretrained, dtype={"vae": torch.float32, "default": self.dtype}, **where, **absent
                )
        except (OSError, ValueError) as error:
            raise ValueError(
                f"pretrained must hold a StableDiffusion3Pipeline in diffusers' format, got {self.pretrained!r} "
                f"(local_files_only={self.local_files_only}): {str(error).strip().splitlines()[0]}"
            ) from error
        self._pipeline = pipeline
        self.transformer = pipeline.transformer.eval()
        for module in self.frozen():
            module.eval().requires_grad_(False)

    def frozen(self) -> list[nn.Module]:
        """The two or three text encoders and the VAE."""
        pipeline = self._pipeline
        parts = (pipeline.text_encoder, pipeline.text_encoder_2, pipeline.text_encoder_3, pipeline.vae)
        return [part for part in parts if part is not None]

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        """(C, h, w) of one image's latent.

        Args:
            height: Pixels, a multiple of VAE factor times patch size.
            width: Pixels, the same.

        Returns:
            Shape without the row axis.

        Raises:
            ValueError: If height or width is no such multiple.
        """
        factor = self._pipeline.vae_scale_factor
        unit = factor * self._pipeline.patch_size
        for name, size in {"height": height, "width": width}.items():
            if size % unit:
                raise ValueError(f"{name} must be a multiple of {unit} for {self.pretrained!r}, got {size}.")
        return (self._pipeline.transformer.config.in_channels, height // factor, width // factor)

    def schedule(self, num_steps: int, height: int, width: int) -> Schedule:
        """Sigmas and timesteps of the pipeline's own scheduler, its resolution-dependent shift included."""
        from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

        scheduler = self._pipeline.scheduler
        shift = {}
        if scheduler.config.use_dynamic_shifting:
            _, rows, columns = self.latent_shape(height, width)
            tokens = (rows // self._pipeline.patch_size) * (columns // self._pipeline.patch_size)
            names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
            shift["mu"] = calculate_shift(tokens, *(scheduler.config[name] for name in names))
        scheduler.set_timesteps(num_steps, device="cpu", **shift)
        return Schedule(sigmas=scheduler.sigmas.clone(), timesteps=scheduler.timesteps.clone())

    def encode(self, prompt: str) -> dict[str, Tensor]:
        """Token embeddings [tokens, dim] and pooled embedding [dim] of one prompt."""
        embeds, _, pooled, _ = self._pipeline.encode_prompt(
            prompt=[prompt],
            prompt_2=None,
            prompt_3=None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
        )
        return {"embeds": embeds[0], "pooled": pooled[0]}

    def velocity(
        self,
        latents: Float[Tensor, "rows *latent"],
        timesteps: Float[Tensor, " rows"],
        conditioning: Mapping[str, Tensor],
    ) -> Float[Tensor, "rows *latent"]:
        """Predict noise minus data; with guidance in one call of twice the rows, the negative prompt's first.

        Args:
            latents: [rows, C, h, w], at least float32; the transformer gets its own type.
            timesteps: Entries of ``Schedule.timesteps``, one per row; never rounded to the transformer's type.
            conditioning: Rows of what ``encode_prompts`` gave.

        Returns:
            Velocity, at least float32.
        """
        embeds, pooled = conditioning["embeds"], conditioning["pooled"]
        if self.guided:
            latents, timesteps = torch.cat([latents, latents]), torch.cat([timesteps, timesteps])
            embeds = torch.cat([conditioning["negative_embeds"], embeds])
            pooled = torch.cat([conditioning["negative_pooled"], pooled])
        dtype = next(self.transformer.parameters()).dtype
        output = self.transformer(
            hidden_states=latents.to(dtype),
            timestep=timesteps,
            encoder_hidden_states=embeds.to(dtype),
            pooled_projections=pooled.to(dtype),
            return_dict=False,
        )[0]
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        if not self.guided:
            return output
        negative, positive = output.chunk(2)
        return negative + self.guidance_scale * (positive - negative)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "rows channels h w"]) -> Float[Tensor, "rows 3 height width"]:
        """Turn finished latents into images in [0, 1], in float32 even under autocast."""
        vae, images = self._pipeline.vae, self._pipeline.image_processor
        with torch.autocast(latents.device.type, enabled=False):
            latents = latents.to(vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
            return images.postprocess(vae.decode(latents, return_dict=False)[0], output_type="pt").float()

    def blocks(self) -> list[nn.Module]:
        """The joint transformer blocks."""
        return list(self._pipeline.transformer.transformer_blocks)

    def save_adapter(self, directory: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        """Write ``pytorch_lora_weights.safetensors``."""
        self._pipeline.save_lora_weights(
            directory, transformer_lora_layers=dict(weights), transformer_lora_adapter_metadata=dict(config)
        )

    def save_transformer(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """Write ``config.json`` and the weights, for ``SD3Transformer2DModel.from_pretrained``."""
        from diffusers import SD3Transformer2DModel

        with torch.device("meta"):
            transformer: Any = SD3Transformer2DModel.from_config(self._pipeline.transformer.config)
        transformer.load_state_dict(weights, assign=True)
        transformer.save_pretrained(directory)


@contextmanager
def _no_loading_bars() -> Iterator[None]:
    """Take away the bars of diffusers and transformers for weights on disk; those of downloads stay."""
    from diffusers.utils import logging as diffusers_bars
    from transformers.utils import logging as transformers_bars

    shown = diffusers_bars.is_progress_bar_enabled()
    diffusers_bars.disable_progress_bar()
    hook = transformers_bars.set_tqdm_hook(lambda bar, args, kwargs: bar(*args, **{**kwargs, "disable": True}))
    try:
        yield
    finally:
        transformers_bars.set_tqdm_hook(hook)
        if shown:
            diffusers_bars.enable_progress_bar()
