"""Options of a pipeline's networks that diffusers has, and that it sets without a check."""

from typing import Any

from realgen.checks import with_article
from realgen.logging_filters import errors_only


def attention_backends() -> list[str]:
    """Return diffusers' names of attention kernels; not SageAttention's, which have no backward pass."""
    from diffusers.models.attention_dispatch import AttentionBackendName

    return sorted(backend.value for backend in AttentionBackendName if "sage" not in backend.value)


def set_attention_backend(transformer: Any, name: str) -> None:
    """Let only this transformer compute attention with one of ``attention_backends``; ValueError if it cannot."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    kind = type(transformer).__name__
    processors = [getattr(module, "processor", None) for module in transformer.modules()]
    if not any(hasattr(processor, "_attention_backend") for processor in processors):
        raise ValueError(
            f"attention_backend must be null for {with_article(kind)}, which always takes PyTorch's, got {name!r}."
        )
    for_all, _ = _AttentionBackendRegistry.get_active_backend()
    try:
        with errors_only():  # diffusers calls its own function experimental
            transformer.set_attention_backend(name)
    except (RuntimeError, ImportError, OSError) as error:
        raise ValueError(f"attention_backend={name!r} cannot be used on this machine: {error}") from error
    _AttentionBackendRegistry.set_active_backend(for_all)


def set_tiles(vae: Any, size: int, factor: int) -> None:
    """Let a VAE decode in overlapping tiles of ``size`` pixels, ``factor`` of which make one of a latent."""
    if size % (4 * factor):
        raise ValueError(
            f"vae_tile_size must be a multiple of {4 * factor} for {with_article(type(vae).__name__)}, got {size}."
        )
    if hasattr(vae, "tile_sample_stride_height"):  # the VAEs made of those of videos
        vae.enable_tiling(size, size, size * 3 // 4, size * 3 // 4)
    else:
        vae.enable_tiling()
        vae.tile_sample_min_size, vae.tile_latent_min_size = size, size // factor


def check_guidance_input(backbone: Any, scale: float | None) -> None:
    """Raise ValueError if ``guidance_scale`` is a number, but no input of a loaded model, or the other way round."""
    takes_guidance = backbone.transformer.config.guidance_embeds
    if takes_guidance != (scale is not None):
        expected = "a number, an input of the model" if takes_guidance else "null, as the model has no such input"
        raise ValueError(f"guidance_scale must be {expected}, for {backbone.pretrained!r}, got {scale}.")
