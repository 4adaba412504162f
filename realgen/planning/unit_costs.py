"""What one row of each call costs, counted on the real networks on the meta device."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from realgen.planning.dry_run import CallKind
from realgen.planning.meter import Work, metered, rounded
from realgen.policies import DiffusionPolicy
from realgen.policies.backbones import Backbone

META = torch.device("meta")


@dataclass(frozen=True)
class UnitCost:
    """What one row of a call costs."""

    work: Work
    """FLOPs by rate."""
    held: int
    """Bytes that stay until the backward pass, or are the result."""
    peak: int
    """Most bytes at the same time, over forward and backward pass."""
    backward: Work = field(default_factory=dict)
    """FLOPs by rate of the backward pass; empty for a call without gradient."""


@dataclass(frozen=True)
class UnitCosts:
    """What one row of each call costs; adapters and recomputed activations included."""

    text: UnitCost
    """One prompt."""
    velocity: Mapping[CallKind, UnitCost]
    """One velocity; with gradient in the update."""
    decode: UnitCost
    """One image."""


def find_unit_costs(policy: DiffusionPolicy, kinds: Iterable[CallKind], *, prompt: str) -> UnitCosts:
    """Run each kind of velocity call once, for one row, with a prompt of usual length.

    The policy is loaded, on the meta device, with a ``PipelineBackbone``.
    """
    backbone: Any = policy.backbone
    with torch.no_grad():
        with metered():  # nothing is counted, but what PyTorch answers slowly is looked up
            if backbone.guided:
                backbone.encode_prompts([""])  # the negative prompt is embedded once in a run
            conditioning = backbone.encode_prompts([prompt])
        text = _metered(lambda: backbone.encode(prompt))  # what the cache keeps
        latents = torch.empty(1, *policy.latent_shape, device=META)
        vae = backbone.vae
        decode = _metered(lambda: vae.decode(backbone.vae_latents(latents.to(vae.dtype)), return_dict=False)[0])
    # Masks stay on the CPU, because lengths are read from them.
    on_meta = {name: part.to(META) if part.is_floating_point() else part for name, part in conditioning.items()}
    row = (latents, torch.empty(1, device=META), on_meta)
    velocity: dict[CallKind, UnitCost] = {}
    for kind in kinds:
        with _guidance(backbone, kind.guided), policy.reference() if kind.phase == "reference" else nullcontext():
            if kind.phase == "update":
                velocity[kind] = _forward_and_backward(policy, row)
            else:
                with torch.no_grad():
                    velocity[kind] = _metered(lambda: backbone.velocity(*row))
        if kind.rounded:
            velocity[kind] = replace(velocity[kind], work=rounded(velocity[kind].work))
    return UnitCosts(text, velocity, decode)


def _metered(call: Callable[[], Any]) -> UnitCost:
    with metered() as meter:
        _ = call()  # kept until the bytes that are held are read
        return UnitCost(dict(meter.work), meter.held, meter.peak)


def _forward_and_backward(policy: DiffusionPolicy, row: tuple[Tensor, Tensor, Mapping[str, Tensor]]) -> UnitCost:
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
    return UnitCost(work, held, meter.peak, backward)


@contextmanager
def _guidance(backbone: Backbone, guided: bool) -> Iterator[None]:
    scale = backbone.cfg_scale
    backbone.cfg_scale = scale if guided else min(scale, backbone.cfg_off)
    yield
    backbone.cfg_scale = scale
