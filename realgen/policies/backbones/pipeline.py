"""The shared part of all backbones that are made of a text-to-image pipeline of diffusers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.logging_filters import no_loading_bars, report_truncation_once
from realgen.policies.backbones.base import Backbone, Schedule, channels_last

Dtype = Literal["float32", "bfloat16", "float16"]
JOINT_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""Attention layers of a block with an image stream and a text stream."""


class PipelineBackbone(Backbone):
    """Load a pipeline, call its parts in the order in which the pipeline calls them, and save for it.

    Args:
        pretrained: Directory of a pipeline, or its hub id.
        max_sequence_length: Text tokens, 1 to ``longest_text``; the model pads or cuts every text to so many.
        dtype: Type of the transformer and the text encoders; the VAE is always float32. For full fine-tuning take
            float32 and let the trainer's precision do the rest.
        local_files_only: Whether a hub id is looked for only among the files already on this machine.
        **settings: Of ``Backbone``.
    """

    pipeline_class: ClassVar[str]
    """Name of the pipeline's class in diffusers."""
    longest_text: ClassVar[int] = 512
    """Largest ``max_sequence_length`` that the pipeline takes."""
    text_is_padded: ClassVar[bool] = True
    """Whether every text has as many tokens. Then guidance is one call of twice the rows, otherwise two calls."""

    def __init__(
        self,
        pretrained: str,
        *,
        max_sequence_length: int = 512,
        dtype: Dtype = "float32",
        local_files_only: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(pretrained, **settings)
        if not 1 <= max_sequence_length <= self.longest_text:
            raise ValueError(
                f"max_sequence_length must be between 1 and {self.longest_text}, got {max_sequence_length}."
            )
        self.max_sequence_length = max_sequence_length
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.local_files_only = local_files_only
        self._pipeline: Any = None

    def load(self) -> None:
        """Read the pipeline onto the CPU; a second call does nothing.

        Raises:
            ValueError: If ``pretrained`` holds no pipeline of ``pipeline_class``.
        """
        if self._pipeline is not None:
            return
        try:
            pipeline = self._read()
        except (OSError, ValueError) as error:
            to_do = ""
            if self.local_files_only and not Path(self.pretrained).is_dir():
                to_do = f" Fetch it once with `hf download {self.pretrained}`, or set local_files_only to false."
            raise ValueError(
                f"pretrained must hold a {self.pipeline_class} in diffusers' format, got {self.pretrained!r} "
                f"(local_files_only={self.local_files_only}): {str(error).strip().splitlines()[0]}{to_do}"
            ) from error
        self.use_pipeline(pipeline)

    def use_pipeline(self, pipeline: Any) -> None:
        """Take the networks of a pipeline; ``load`` then reads nothing.

        Args:
            pipeline: Of ``pipeline_class``.

        Raises:
            ValueError: If it is of another class.
        """
        if (kind := type(pipeline).__name__) != self.pipeline_class:
            raise ValueError(
                f"pretrained must hold a {self.pipeline_class} for {type(self).__name__}, got {self.pretrained!r}, "
                f"a {kind}."
            )
        self._pipeline, self._transformer_class = pipeline, type(pipeline.transformer)
        self.transformer = pipeline.transformer.eval()
        for module in self.frozen():
            channels_last(module.eval().requires_grad_(False))

    def _read(self) -> Any:
        import diffusers

        pipeline_class: Any = getattr(diffusers, self.pipeline_class)
        where: dict[str, Any] = {"local_files_only": self.local_files_only}
        index = pipeline_class.load_config(self.pretrained, **where)
        if index["_class_name"] != self.pipeline_class:
            raise ValueError(f"it holds a {index['_class_name']}.")
        # Diffusers reads a pipeline without one of its parts, such as SD3's T5, only if None is passed for it.
        absent = {name: None for name, entry in index.items() if isinstance(entry, list) and entry[0] is None}
        report_truncation_once()
        with torch.device("cpu"), no_loading_bars():
            return pipeline_class.from_pretrained(
                self.pretrained, dtype={"vae": torch.float32, "default": self.dtype}, **where, **absent
            )

    @property
    def vae(self) -> Any:
        """The decoder, in float32; there after ``load``."""
        return self._pipeline.vae

    def frozen(self) -> list[nn.Module]:
        """The text encoders and the VAE."""
        parts = self._pipeline.components.items()
        return [part for name, part in parts if isinstance(part, nn.Module) and name != "transformer"]

    @property
    def patch_size(self) -> int:
        """Latent pixels that are one token, in each direction."""
        return 2

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Return (C, h, w) of one image's latent; height and width are multiples of VAE factor times patch size."""
        rows, columns = self.tokens(height, width)
        return (self.latent_channels, rows * self.patch_size, columns * self.patch_size)

    def tokens(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of image tokens that the transformer sees.

        Raises:
            ValueError: If height or width, in pixels, is no multiple of VAE factor times patch size.
        """
        unit = self._pipeline.vae_scale_factor * self.patch_size
        for name, size in {"height": height, "width": width}.items():
            if size < unit or size % unit:
                raise ValueError(f"{name} must be a multiple of {unit} for {self.pretrained!r}, got {size}.")
        return height // unit, width // unit

    @property
    def latent_channels(self) -> int:
        """Channels C of a latent."""
        return self._pipeline.vae.config.latent_channels

    def schedule(self, num_steps: int, height: int, width: int) -> Schedule:
        """Return the scheduler's sigmas and timesteps: evenly spaced, then shifted by the number of tokens.

        Raises:
            ValueError: If the scheduler cannot make so few steps.
        """
        if num_steps < 2 and self._pipeline.scheduler.config.shift_terminal:
            raise ValueError(
                f"num_steps must be at least 2 for {self.pretrained!r}, whose scheduler fixes the first sigma and the "
                f"last (shift_terminal), got {num_steps}."
            )
        sigmas = np.linspace(1.0, 1 / num_steps, num_steps)
        return self._set_timesteps(sigmas=sigmas, mu=self._shift(height, width, num_steps))

    def _set_timesteps(self, *args: Any, **settings: Any) -> Schedule:
        scheduler = self._pipeline.scheduler
        scheduler.set_timesteps(*args, device="cpu", **settings)
        return Schedule(sigmas=scheduler.sigmas.clone(), timesteps=scheduler.timesteps.clone())

    def _shift(self, height: int, width: int, num_steps: int) -> float:
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        rows, columns = self.tokens(height, width)
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        return calculate_shift(rows * columns, *(self._pipeline.scheduler.config[name] for name in names))

    def velocity(
        self,
        latents: Float[Tensor, "rows *latent"],
        timesteps: Float[Tensor, " rows"],
        conditioning: Mapping[str, Tensor],
    ) -> Float[Tensor, "rows *latent"]:
        """Predict noise minus data; with guidance in one call of twice the rows, the negative prompt's first."""
        prefix = "negative_"
        text = {name: part for name, part in conditioning.items() if not name.startswith(prefix)}
        if not self.guided:
            return self._predict(latents, timesteps, text)
        negative_text = {name: conditioning[prefix + name] for name in text}
        if self.text_is_padded:
            both = {name: torch.cat([negative_text[name], part]) for name, part in text.items()}
            latents, timesteps = torch.cat([latents, latents]), torch.cat([timesteps, timesteps])
            negative, positive = self._predict(latents, timesteps, both).chunk(2)  # each [B, *latent]
        else:  # one call would need a mask for texts of different lengths, which fast attention kernels do not take
            positive = self._predict(latents, timesteps, text)
            negative = self._predict(latents, timesteps, negative_text)
        return self.combine(positive, negative)

    def combine(
        self, positive: Float[Tensor, "rows *latent"], negative: Float[Tensor, "rows *latent"]
    ) -> Float[Tensor, "rows *latent"]:
        """Apply guidance, v = v_negative + cfg_scale (v_positive - v_negative) unless the model has another rule."""
        return negative + self.cfg_scale * (positive - negative)

    def _predict(self, latents: Tensor, timesteps: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        dtype = next(self.transformer.parameters()).dtype
        text = {name: part.to(dtype) if part.is_floating_point() else part for name, part in text.items()}
        output = self.predict(latents.to(dtype), timesteps, text)  # the transformer rounds the timesteps itself
        return output.to(torch.promote_types(output.dtype, torch.float32))

    @abstractmethod
    def predict(
        self, latents: Float[Tensor, "rows *latent"], timesteps: Float[Tensor, " rows"], text: Mapping[str, Tensor]
    ) -> Float[Tensor, "rows *latent"]:
        """Return the transformer's velocity, noise minus data, without guidance.

        Args:
            latents: In the transformer's type.
            timesteps: One per row, in float32.
            text: Rows of what ``encode`` returned, in the transformer's type.
        """

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "rows channels h w"]) -> Float[Tensor, "rows 3 height width"]:
        """Decode finished latents into images in [0, 1], in float32 even under autocast."""
        vae, images = self._pipeline.vae, self._pipeline.image_processor
        with torch.autocast(latents.device.type, enabled=False):
            pixels = vae.decode(self.vae_latents(latents.to(vae.dtype)), return_dict=False)[0].contiguous()
            pixels = pixels if pixels.ndim == 4 else pixels[:, :, 0]  # a video VAE's [B, 3, frames, H, W]
            return images.postprocess(pixels, output_type="pt").float()

    def vae_latents(self, latents: Float[Tensor, "rows channels h w"]) -> Float[Tensor, "rows *vae_latent"]:
        """Return latents on the scale, and of the shape, that the VAE decodes."""
        config = self._pipeline.vae.config
        return latents / config.scaling_factor + config.shift_factor

    def save_adapter(self, directory: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        """Write ``pytorch_lora_weights.safetensors``."""
        self._pipeline.save_lora_weights(
            directory, transformer_lora_layers=dict(weights), transformer_lora_adapter_metadata=dict(config)
        )

    def save_transformer(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """Write ``config.json`` and the weights, for ``from_pretrained`` of the transformer's class."""
        with torch.device("meta"):
            transformer: Any = self._transformer_class.from_config(self._pipeline.transformer.config)
        transformer.load_state_dict(weights, assign=True)
        transformer.save_pretrained(directory)
