"""What one row of each call costs, counted on the real networks on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from realgen.planning.meter import Work, metered, rounded
from realgen.planning.rehearsal import Kind
from realgen.policies import DiffusionPolicy
from realgen.policies.backbones import Backbone

META = torch.device("meta")


@dataclass(frozen=True)
class Price:
    """What one row of a call costs."""

    work: Work
    """FLOPs by rate."""
    held: int
    """Bytes that stay until the backward pass (or are the answer)."""
    peak: int
    """Most bytes at the same time."""


@dataclass(frozen=True)
class Prices:
    """What one row of each call costs; adapters and recomputed activations included."""

    text: Price
    """One prompt."""
    velocity: Mapping[Kind, Price]
    """One velocity; with gradient ``peak`` is over forward and backward pass."""
    backward: Mapping[Kind, Work]
    """The backward pass of those with gradient."""
    decode: Price
    """One image."""


def find_prices(policy: DiffusionPolicy, kinds: Iterable[Kind], *, prompt: str) -> Prices:
    """Run each kind of call once, for one row.

    Args:
        policy: Loaded, on the meta device.
        kinds: Of velocity calls.
        prompt: A text of usual length.

    Returns:
        The prices.
    """
    backbone: Any = policy.backbone
    with torch.no_grad():
        if backbone.guided:
            backbone.encode_prompts([""])  # the negative prompt is embedded once in a run
        text, conditioning = _price(lambda: backbone.encode_prompts([prompt]))
        latents = torch.empty(1, *policy.latent_shape, device=META)
        vae = backbone._pipeline.vae
        decode, _ = _price(lambda: vae.decode(backbone.vae_latents(latents.to(vae.dtype)), return_dict=False)[0])
    row = (latents, torch.empty(1, device=META), {name: _on_meta(part) for name, part in conditioning.items()})
    velocity: dict[Kind, Price] = {}
    backward: dict[Kind, Work] = {}
    for kind in kinds:
        with _guidance(backbone, kind.guided), policy.reference() if kind.phase == "reference" else nullcontext():
            if kind.phase == "update":
                velocity[kind], backward[kind] = _training(policy, row)
            else:
                with torch.no_grad():
                    velocity[kind], _ = _price(lambda: backbone.velocity(*row))
        if kind.rounded:
            velocity[kind] = replace(velocity[kind], work=rounded(velocity[kind].work))
    return Prices(text, velocity, backward, decode)


def _price(call: Callable[[], Any]) -> tuple[Price, Any]:
    with metered() as meter:
        answer = call()
    return Price(dict(meter.work), meter.held, meter.peak), answer


def _training(policy: DiffusionPolicy, row: tuple[Tensor, Tensor, Mapping[str, Tensor]]) -> tuple[Price, Work]:
    trained = list(policy.trainable_parameters().values())
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)  # gradients have a line of their own in the memory
    with torch.enable_grad(), metered() as meter:
        velocity = policy.backbone.velocity(*row)
        work, held = dict(meter.work), meter.held
        velocity.backward(torch.zeros_like(velocity))
        backward = {rate: flops - work.get(rate, 0) for rate, flops in meter.work.items()}
    for parameter in trained:
        parameter.grad = None
    return Price(work, held, meter.peak), backward


@contextmanager
def _guidance(backbone: Backbone, guided: bool) -> Iterator[None]:
    scale = backbone.cfg_scale
    backbone.cfg_scale = scale if guided else min(scale, backbone.cfg_off)
    yield
    backbone.cfg_scale = scale


def _on_meta(part: Tensor) -> Tensor:
    """Numbers go where the weights are; masks stay where they can be read, as lengths are taken from them."""
    return part.to(META) if part.is_floating_point() else part
