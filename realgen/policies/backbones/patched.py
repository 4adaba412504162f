"""The shared part of backbones on FLUX.2's VAE: 2 x 2 of its latent pixels are one of the policy's."""

from jaxtyping import Float
from torch import Tensor

from realgen.policies.backbones.pipeline import PipelineBackbone


class PatchedBackbone(PipelineBackbone):
    """A backbone whose latents are scaled, channel by channel, by the statistics of the VAE's batch norm."""

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Return (C, h, w) of one image's latent, in which 2 x 2 pixels of the VAE's latent are one."""
        return (self._pipeline.transformer.config.in_channels, *self.tokens(height, width))

    def vae_latents(
        self, latents: Float[Tensor, "rows channels h w"]
    ) -> Float[Tensor, "rows vae_channels vae_h vae_w"]:
        """Return latents on the scale, and of the shape, that the VAE decodes."""
        mean, std = self._scale()
        return self._pipeline._unpatchify_latents(latents * std + mean)

    def from_vae(self, latents: Float[Tensor, "rows vae_channels vae_h vae_w"]) -> Float[Tensor, "rows channels h w"]:
        """Return the policy's latents of those of the VAE."""
        mean, std = self._scale()
        return (self._pipeline._patchify_latents(latents) - mean) / std

    @property
    def batch_norm_eps(self) -> float:
        """What the pipeline adds to the variances."""
        return self._pipeline.vae.config.batch_norm_eps

    def _scale(self) -> tuple[Tensor, Tensor]:
        mean, variance = (
            part.view(1, -1, 1, 1) for part in (self._pipeline.vae.bn.running_mean, self._pipeline.vae.bn.running_var)
        )
        return mean, (variance + self.batch_norm_eps).sqrt()
