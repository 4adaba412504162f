"""How a rank's memory is filled: what stays, and what each phase adds at its fullest moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from realgen.planning.meter import num_bytes
from realgen.planning.prices import Prices
from realgen.planning.recipe import Recipe, Sharding
from realgen.planning.rehearsal import Counts
from realgen.planning.rewards import RewardCost

FLOAT32 = 4
ON_DEMAND: dict[str, tuple[str, ...]] = {
    "text encoding": ("text encoders", "VAE", "rewards"),
    "rollout": ("rewards",),
    "decode": ("VAE", "rewards"),
    "reference": ("rewards",),
    "update": (),
}
"""Of what waits on the CPU, what is there at a phase's fullest moment: the rewards until the first call with gradient,
the decoder until the transformer's next call, which is the next chunk's (``realgen.strategies.on_demand``)."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU."""

    parts: dict[str, int | None]
    """What there is, by name; None where it was not counted."""
    peaks: dict[str, int]
    """What is there at the fullest moment of each phase, what was not counted left out."""

    @property
    def peak(self) -> int:
        """Most of all phases."""
        return max(self.peaks.values())


def find_memory(recipe: Recipe, counts: Counts, prices: Prices, rewards: Sequence[RewardCost]) -> Memory:
    """Add up what a rank holds.

    Args:
        recipe: Its policy loaded, on the meta device.
        counts: Of the rehearsal.
        prices: Of each call.
        rewards: Of each part of the reward.

    Returns:
        The memory, without what lies inside kernels and communication, without the rewards' activations, and without
        what an allocator cannot use.
    """
    policy, sharding = recipe.policy, recipe.sharding
    backbone: Any = policy.backbone
    trained = list(policy.trainable_parameters().values())
    weights = [*policy.transformer.parameters(), *policy.transformer.buffers()]
    trained_bytes, frozen_bytes = num_bytes(trained), num_bytes(weights) - num_bytes(trained)
    on_gpu = 0 if sharding.offloads else 1
    frozen_parts = {id(part): num_bytes([*part.parameters(), *part.buffers()]) for part in backbone.frozen()}
    vae = frozen_parts[id(backbone._pipeline.vae)]
    text = sum(frozen_parts.values()) - vae
    state = optimizer_bytes(recipe)
    latent = prod(policy.latent_shape) * FLOAT32
    parts: dict[str, int | None] = {
        "frozen weights": on_gpu * frozen_bytes // sharding.base,
        "trained weights": on_gpu * trained_bytes // sharding.trained,
        "gathered weights": _gathered(policy.transformer, backbone.blocks(), sharding),
        "reference copy": sum(num_bytes(copy.parameters()) for copy in policy._frozen_start),
        "text encoders": text,
        "VAE": vae,
        "rewards": None if any(cost.memory is None for cost in rewards) else 0,
        "gradients": _gradients(recipe, counts, trained_bytes),
        "optimizer state": None if state is None else on_gpu * state // sharding.trained,
        "moving averages": on_gpu * recipe.averages * sum(w.numel() for w in trained) * FLOAT32 // sharding.trained,
        "trajectories": counts.stored_latents * latent,
        "images": counts.images * 3 * policy.height * policy.width * FLOAT32,
    }
    judged = sum(cost.memory or 0 for cost in rewards)
    if parts["rewards"] is not None or judged:
        parts["rewards"] = judged
    activations = _activations(counts, prices)
    parts["activations"] = max(activations.values())
    return Memory(parts, find_peaks(parts, activations, sharding))


def find_peaks(parts: dict[str, int | None], activations: dict[str, int], sharding: Sharding) -> dict[str, int]:
    """Add up what is there at the fullest moment of each phase.

    Args:
        parts: Bytes by name, as in ``Memory``.
        activations: Bytes that each phase adds.
        sharding: Says whether frozen networks wait on the CPU.

    Returns:
        Bytes by phase.
    """
    peaks = {}
    for phase, transient in activations.items():
        absent = {"text encoders", "VAE", "rewards"}.difference(ON_DEMAND[phase]) if sharding.on_demand else set()
        if phase != "update":
            absent.add("gradients")
        if phase != "reference":
            absent.add("reference copy")
        there = sum(size or 0 for name, size in parts.items() if name not in absent and name != "activations")
        peaks[phase] = there + transient
    return peaks


def _activations(counts: Counts, prices: Prices) -> dict[str, int]:
    """What each phase adds at its fullest moment."""
    found = {"text encoding": prices.text.peak, "rollout": 0, "reference": 0, "update": 0}
    for kind, rows in counts.largest_call.items():
        price = prices.velocity[kind]
        added = price.peak * rows
        if kind.phase == "update":  # the activations of all calls wait, and one of them is computed backwards
            added = price.held * counts.graph_rows + (price.peak - price.held) * rows
        found[kind.phase] = max(found[kind.phase], added)
    found["decode"] = prices.decode.peak * counts.decode_batch
    return {phase: added for phase, added in found.items() if added}


def _gathered(transformer: nn.Module, blocks: Sequence[nn.Module], sharding: Sharding) -> int:
    """Whole weights of sharded parts that are there at the same time: two blocks, as one is fetched ahead."""
    if sharding.base == 1 and not sharding.offloads:
        return 0
    frozen_only = sharding.trained == 1 and not sharding.offloads

    def size(part: nn.Module) -> int:
        return num_bytes(weight for weight in part.parameters() if not (frozen_only and weight.requires_grad))

    sizes = sorted((size(block) for block in blocks), reverse=True)
    around = size(transformer) - sum(sizes)
    return size(transformer) if sharding.keeps_gathered else around + sum(sizes[:2])


def _gradients(recipe: Recipe, counts: Counts, trained_bytes: int) -> int:
    """They are averaged over the ranks in an update's last microbatch; until then each rank holds its own whole."""
    sharding, module = recipe.sharding, recipe.module
    rows = recipe.prompts * module.group_size // module.updates_per_epoch
    whole = rows > module.microbatch_size
    size = trained_bytes if whole else trained_bytes // sharding.trained
    return size * (2 if sharding.buckets else 1)


def optimizer_bytes(recipe: Recipe) -> int | None:
    """The state that the recipe's optimizer keeps of all trained weights, by making a step on the meta device.

    Args:
        recipe: Its policy loaded, on the meta device.

    Returns:
        Bytes; None if this optimizer does not work there.
    """
    trained = list(recipe.policy.trainable_parameters().values())
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    try:
        optimizer = recipe.module.optimizer(trained)
        optimizer.step()
        states = [value for state in optimizer.state.values() for value in state.values()]
    except RuntimeError:  # also of what is not implemented there
        return None
    finally:
        for parameter in trained:
            parameter.grad = None
    return num_bytes(value for value in states if isinstance(value, torch.Tensor))
