"""A flow-matching loss on photographs beside the RL loss, which holds the policy to data instead of to its start."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from realgen.data.detector_pairs import as_square
from realgen.functional.images import from_uint8
from realgen.objectives.forward_process import uniform_error
from realgen.phases import phase
from realgen.policies.base import Policy
from realgen.policies.denoising import guidance
from realgen.policies.diffusion_model import DiffusionModel
from realgen.policies.diffusion_policy import DiffusionPolicy
from realgen.policies.forward_draws import ForwardDraws
from realgen.types import PromptBatch, Rollout


@dataclass(frozen=True)
class DataAnchor:
    """Adds ``weight`` times the flow-matching error on the prompts' own photographs to each update.

    After DDRL (arXiv:2512.04332), whose weight is not known to us: a KL penalty to the reference is measured on the
    policy's samples, off the data; this one is measured on data. Without guidance, for a ``DiffusionPolicy`` alone. The
    shards must hold photographs of the policy's size: ``data.train_images=true`` and ``data.image_size``. ValueError if
    the weight is not above 0.

    Args:
        weight: Of the mean squared error of the velocity, > 0.
        draws: Draws of noise on each photograph; ``stratified`` along the rollout's schedule by default.
    """

    weight: float
    draws: ForwardDraws = field(default_factory=lambda: ForwardDraws(count=1, noise_levels="stratified"))

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"weight must be above 0 (data_anchor=null for none), got {self.weight}.")

    @torch.no_grad()
    def rollout(self, policy: Policy, batch: PromptBatch, generator: torch.Generator) -> Rollout:
        """Return the batch's photographs with their draws, as if the policy had drawn them.

        Raises:
            ValueError: If the policy is no ``DiffusionPolicy``, or the batch has no photographs, or of another size.
        """
        if not isinstance(policy, DiffusionPolicy):
            raise ValueError(f"data_anchor is for a DiffusionPolicy, got {type(policy).__name__}.")
        size = (policy.height, policy.width)
        if batch.images is None or batch.images.shape[2:] != size:
            cure = "none; set data.train_images=true, of shards that have them"
            got = cure if batch.images is None else f"{tuple(batch.images.shape[2:])}"
            raise ValueError(f"data_anchor needs photographs of {size} pixels (data.image_size), got {got}.")
        latents = encode_images(policy.backbone.to(policy.device), batch.images.to(policy.device))
        decided = self.draws.record(latents, 1, policy.schedule(policy.num_steps), generator)
        return Rollout(tuple(batch.prompts), 1, batch.images, **decided)

    def gradients(
        self, policy: Any, photographs: Rollout, microbatch_size: int, backward: Callable[[Tensor], None]
    ) -> Float[Tensor, ""]:
        """Accumulate the gradients of ``weight`` times the mean error; return that error."""
        total = torch.zeros((), device=photographs.mask.device)
        for rows in torch.arange(len(photographs.mask)).split(microbatch_size):
            with guidance(policy.backbone, False):
                error = uniform_error(policy.score(photographs, rows)).sum() / photographs.mask.numel()
            backward(self.weight * error)
            total += error.detach()
        return total


@phase("image encoding")
def encode_images(backbone: Any, images: Float[Tensor, "rows 3 height width"]) -> Float[Tensor, "rows channels h w"]:
    """Encode images in [0, 1] into a pipeline's finished latents, float32, the means of what its VAE gives."""
    vae = backbone.vae
    with backbone.needed(vae), torch.autocast(images.device.type, enabled=False):
        pixels = (2 * images - 1).to(vae.dtype)
        one = backbone.vae_latents(pixels.new_zeros(1, *backbone.latent_shape(*images.shape[2:])))
        pixels = pixels if one.ndim == 4 else pixels.unsqueeze(2)  # a video VAE's [B, 3, frames, H, W]
        return backbone.from_vae(vae.encode(pixels).latent_dist.mean).float()


@torch.no_grad()
def through_vae(module: nn.Module, photographs: UInt8[Tensor, "n 3 size size"]) -> UInt8[Tensor, "n 3 size size"]:
    """Encode and decode photographs by the VAE of a module's one image policy, on the module's device."""
    if not len(photographs):
        return photographs
    (policy,) = [part for part in module.modules() if isinstance(part, DiffusionModel)]
    backbone = policy.backbone.to(policy.device)
    images = from_uint8(photographs).to(policy.device)
    decoded = [backbone.decode(encode_images(backbone, image[None])) for image in images]
    return as_square(torch.cat(decoded), photographs.shape[-1])
