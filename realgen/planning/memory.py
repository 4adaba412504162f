"""How a rank's memory is filled: what stays, and what each phase adds at its fullest moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from realgen.planning.dry_run import Counts
from realgen.planning.meter import num_bytes
from realgen.planning.recipe import Recipe, Sharding
from realgen.planning.reward_costs import RewardCost
from realgen.planning.unit_costs import UnitCosts

FLOAT32 = 4
ON_DEMAND: Mapping[str, tuple[str, ...]] = {
    "text encoding": ("text encoders", "VAE", "rewards"),
    "rollout": ("rewards",),
    "decode": ("VAE", "rewards"),
    "reference": ("rewards",),
    "update": (),
}
"""Which of the networks that wait on the CPU are on the GPU at a phase's fullest moment: the rewards until the first
call with gradient, the decoder until the transformer's next call, which is the next chunk's
(``realgen.strategies.on_demand``)."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU."""

    sizes: dict[str, int | None]
    """What is held, by name; None where it was not counted."""
    peaks: dict[str, int]
    """Sum at the fullest moment of each phase, without what was not counted."""

    @property
    def peak(self) -> int:
        """Most of all phases."""
        return max(self.peaks.values())


def find_memory(recipe: Recipe, counts: Counts, costs: UnitCosts, rewards: Sequence[RewardCost]) -> Memory:
    """Add up what a rank holds.

    Args:
        recipe: Its policy loaded, on the meta device.
        counts: Of the dry run.
        costs: Of each call.
        rewards: Of each component of the reward.

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
    frozen_networks = {id(part): num_bytes([*part.parameters(), *part.buffers()]) for part in backbone.frozen()}
    vae = frozen_networks[id(backbone.vae)]
    state = _optimizer_state(recipe)
    uncounted = any(cost.memory is None for cost in rewards)
    sizes: dict[str, int | None] = {
        "frozen weights": on_gpu * frozen_bytes // sharding.base,
        "trained weights": on_gpu * trained_bytes // sharding.trained,
        "gathered weights": _gathered(policy.transformer, backbone.blocks(), sharding),
        "reference copy": num_bytes(policy.transformer.parameters()) if policy.keep_reference else 0,
        "text encoders": sum(frozen_networks.values()) - vae,
        "VAE": vae,
        "rewards": sum(cost.memory or 0 for cost in rewards) or (None if uncounted else 0),
        "gradients": _gradients(recipe, trained_bytes),
        "optimizer state": None if state is None else on_gpu * state // sharding.trained,
        "moving averages": on_gpu * recipe.averages * sum(w.numel() for w in trained) * FLOAT32 // sharding.trained,
        "trajectories": counts.stored_latents * prod(policy.latent_shape) * FLOAT32,
        "images": counts.images * 3 * policy.height * policy.width * FLOAT32,
    }
    activations = _activations(counts, costs)
    sizes["activations"] = max(activations.values())
    return Memory(sizes, find_peaks(sizes, activations, sharding))


def find_peaks(sizes: Mapping[str, int | None], activations: Mapping[str, int], sharding: Sharding) -> dict[str, int]:
    """Add up what is held at the fullest moment of each phase.

    Args:
        sizes: Bytes by name, as in ``Memory``.
        activations: Bytes that each phase adds.
        sharding: Says whether frozen networks wait on the CPU.

    Returns:
        Bytes by phase.
    """
    peaks = {}
    for phase, added in activations.items():
        absent = {"text encoders", "VAE", "rewards"}.difference(ON_DEMAND[phase]) if sharding.on_demand else set()
        if phase != "update":
            absent.add("gradients")
        if phase != "reference":
            absent.add("reference copy")
        held = sum(size or 0 for name, size in sizes.items() if name not in absent and name != "activations")
        peaks[phase] = held + added
    return peaks


def _activations(counts: Counts, costs: UnitCosts) -> dict[str, int]:
    """Return what each phase adds at its fullest moment."""
    found = {"text encoding": costs.text.peak, "rollout": 0, "reference": 0, "update": 0}
    for kind, rows in counts.largest_call.items():
        cost = costs.velocity[kind]
        added = cost.peak * rows
        if kind.phase == "update":  # the activations of all calls wait, and one of them is computed backwards
            added = cost.held * counts.graph_rows + (cost.peak - cost.held) * rows
        found[kind.phase] = max(found[kind.phase], added)
    found["decode"] = costs.decode.peak * counts.decode_batch
    return {phase: added for phase, added in found.items() if added}


def _gathered(transformer: nn.Module, blocks: Sequence[nn.Module], sharding: Sharding) -> int:
    """Return the bytes of sharded weights that are whole at the same time: of two blocks, as one is fetched ahead."""
    if sharding.base == 1 and not sharding.offloads:
        return 0
    frozen_only = sharding.trained == 1 and not sharding.offloads

    def size(module: nn.Module) -> int:
        return num_bytes(weight for weight in module.parameters() if not (frozen_only and weight.requires_grad))

    sizes = sorted((size(block) for block in blocks), reverse=True)
    around = size(transformer) - sum(sizes)
    return size(transformer) if sharding.keeps_gathered else around + sum(sizes[:2])


def _gradients(recipe: Recipe, trained_bytes: int) -> int:
    """Return the bytes of gradients, which each rank holds whole until they are averaged in the last microbatch."""
    sharding = recipe.sharding
    several_microbatches = recipe.rows_per_update > recipe.module.microbatch_size
    size = trained_bytes if several_microbatches else trained_bytes // sharding.trained
    return size * (2 if sharding.buckets else 1)


def _optimizer_state(recipe: Recipe) -> int | None:
    """Return the bytes of the optimizer's state, by a step on the meta device; None if it does not work there."""
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
