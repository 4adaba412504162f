"""Attention kernels and tiles of the VAE: what is set, what is refused, what it does to the numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry

from realgen.policies.backbones import Backbone

TAKES_NO_KERNELS = {"HiDream", "Lumina2", "SD3"}


def velocity(backbone: Backbone, text: dict[str, torch.Tensor]) -> torch.Tensor:
    latents = torch.randn(2, *backbone.latent_shape(16, 16), generator=torch.Generator().manual_seed(0))
    rows = {name: part.expand(2, *part.shape[1:]) for name, part in text.items()}
    with torch.no_grad():
        return backbone.velocity(latents, backbone.schedule(2, 16, 16).timesteps, rows)


def test_a_kernel_is_the_transformers_alone(make: Callable[..., Backbone], kind: type[Backbone]) -> None:
    if kind.__name__ in TAKES_NO_KERNELS:
        with pytest.raises(ValueError, match=r"attention_backend must be null for a .*Transformer.*got '_native_math'"):
            make(attention_backend="_native_math")
        return
    before = _AttentionBackendRegistry.get_active_backend()
    plain, mathematical = make(), make(attention_backend="_native_math")
    assert _AttentionBackendRegistry.get_active_backend() == before
    text = plain.encode_prompts(["a red fox"])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        computed = velocity(mathematical, text)
    kernels = {event.key for event in profile.key_averages() if "scaled_dot_product" in event.key}
    assert kernels == {"aten::scaled_dot_product_attention", "aten::_scaled_dot_product_attention_math"}
    torch.testing.assert_close(computed, velocity(plain, text), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["flsh", "sage", "_sage_qk_int8_pv_fp16_cuda"])
def test_an_unknown_kernel_and_one_without_gradient_are_refused_before_loading(
    make: Callable[..., Backbone], name: str
) -> None:
    with pytest.raises(ValueError, match=f"attention_backend must be one of .*flash.*, got '{name}'"):
        make(load=False, attention_backend=name)


def test_a_kernel_that_is_not_installed_is_refused_at_loading(make: Callable[..., Backbone]) -> None:
    backbone = make(load=False, attention_backend="_flash_3")
    with pytest.raises(ValueError, match="attention_backend"):
        backbone.load()


def test_large_images_are_decoded_in_tiles_and_small_ones_whole(make: Callable[..., Backbone]) -> None:
    plain = make()
    tile = 4 * plain.vae_factor
    tiled, sizes = make(vae_tile_size=tile), list[tuple[int, ...]]()
    tiled.vae.decoder.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[-2:])))
    for height, width in ((tile, tile), (2 * tile, tile), (2 * tile, 3 * tile)):
        latents = torch.randn(2, *plain.latent_shape(height, width), generator=torch.Generator().manual_seed(0))
        sizes.clear()
        images, whole = tiled.decode(latents), plain.decode(latents)
        assert images.shape == whole.shape == (2, 3, height, width)
        assert all(max(size) <= 4 for size in sizes)
        assert torch.equal(images, whole) == (len(sizes) == 1) == (height == tile)


@pytest.mark.parametrize("size", [0, 6])
def test_tiles_that_do_not_fit_are_refused(make: Callable[..., Backbone], size: int) -> None:
    with pytest.raises(ValueError, match=f"vae_tile_size must be .*, got {size}"):
        make(vae_tile_size=size)
