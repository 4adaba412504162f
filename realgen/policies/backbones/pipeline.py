"""The shared part of all backbones that are made of a text-to-image pipeline of diffusers."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.phases import phase
from realgen.policies.backbones.base import Schedule
from realgen.policies.backbones.pipeline_files import PipelineFiles

JOINT_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""Attention layers of a block with an image stream and a text stream."""


class PipelineBackbone(PipelineFiles):
    """A backbone that calls the parts of a pipeline in the order in which the pipeline calls them."""

    text_is_padded: ClassVar[bool] = True
    """Whether every text has as many tokens. Then guidance is one call of twice the rows, otherwise two calls."""

    @property
    def patch_size(self) -> int:
        """Latent pixels that are one token, in each direction."""
        return 2

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Return (C, h, w) of one image's latent; height and width are multiples of VAE factor times patch size."""
        rows, columns = self.tokens(height, width)
        return (self.latent_channels, rows * self.patch_size, columns * self.patch_size)

    def tokens(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of image tokens; ValueError if pixels are no multiple of VAE factor times patch."""
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
        """Return the scheduler's sigmas and timesteps, shifted by the tokens; ValueError for too few steps."""
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
        """Apply guidance, v_negative + w (v - v_negative); w is cfg_scale, or 1 + cfg_scale where 0 is none."""
        return negative + (self.cfg_scale + (1 - self.cfg_off)) * (positive - negative)

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

        Latents and ``text``, rows of what ``encode`` returned, are in the transformer's type, timesteps in float32.
        """

    @phase("decoding")
    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "rows channels h w"]) -> Float[Tensor, "rows 3 height width"]:
        """Decode finished latents into images in [0, 1], in float32 even under autocast."""
        vae, images = self._pipeline.vae, self._pipeline.image_processor
        with self.needed(vae), torch.autocast(latents.device.type, enabled=False):
            pixels = vae.decode(self.vae_latents(latents.to(vae.dtype)), return_dict=False)[0].contiguous()
            pixels = pixels if pixels.ndim == 4 else pixels[:, :, 0]  # a video VAE's [B, 3, frames, H, W]
            return images.postprocess(pixels, output_type="pt").float()

    def vae_latents(self, latents: Float[Tensor, "rows channels h w"]) -> Float[Tensor, "rows *vae_latent"]:
        """Return latents on the scale, and of the shape, that the VAE decodes."""
        config = self._pipeline.vae.config
        return latents / config.scaling_factor + config.shift_factor

    def from_vae(self, latents: Float[Tensor, "rows *vae_latent"]) -> Float[Tensor, "rows channels h w"]:
        """Return the policy's latents of those of the VAE; the inverse of ``vae_latents``."""
        config = self._pipeline.vae.config
        return (latents - config.shift_factor) * config.scaling_factor

    def blocks(self) -> list[nn.Module]:
        """Return the blocks of two streams, then those of one if there are any."""
        transformer = self._pipeline.transformer
        return [*transformer.transformer_blocks, *getattr(transformer, "single_transformer_blocks", ())]
