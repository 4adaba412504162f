"""How a rank's memory is filled: what stays, and what each phase adds at its fullest moment."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from realgen.planning.dry_run import Counts
from realgen.planning.learning_costs import LearningCost
from realgen.planning.meter import num_bytes
from realgen.planning.recipe import Recipe, Sharding
from realgen.planning.reward_costs import RewardCost, metric_bytes
from realgen.planning.unit_costs import UnitCosts
from realgen.quantization import quantized_bytes

FLOAT32 = 4
CUDA_CONTEXT = 600 * 2**20
"""About what CUDA and its libraries take before the first tensor; kernels are loaded when they are first used."""
ON_DEMAND = {"text encoding": ("text encoders", "VAE"), "decode": ("VAE",), "reward": ("rewards",)}
"""Which of the networks that may wait on the CPU are on the GPU in a phase; in the others none is."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU."""

    sizes: dict[str, int | None]
    """What is held, by name; None where it was not counted."""
    peaks: dict[str, int]
    """Sum at the fullest moment of each phase, without what was not counted."""
    host: int
    """On the CPU of each rank at the start: every weight, until it is sharded or moved; no pages that ranks share."""

    @property
    def peak(self) -> int:
        """Most of all phases."""
        return max(self.peaks.values())


def find_memory(
    recipe: Recipe,
    counts: Counts,
    costs: UnitCosts,
    rewards: Sequence[RewardCost],
    learning: Sequence[LearningCost] = (),
) -> Memory:
    """Add up what a rank holds; the recipe's policy is loaded, on the meta device.

    Left out are the insides of kernels and communication, and what an allocator cannot use.
    """
    policy, sharding = recipe.policy, recipe.sharding
    backbone: Any = policy.backbone
    trained = list(policy.trainable_parameters().values())
    weights = [*policy.transformer.parameters(), *policy.transformer.buffers()]
    trained_bytes, frozen_bytes = num_bytes(trained), num_bytes(weights) - num_bytes(trained)
    on_gpu = 0 if sharding.offloads else 1
    encoder_bits = backbone.text_encoder_bits
    frozen_networks = {
        id(part): quantized_bytes(part, None if part is backbone.vae else encoder_bits) for part in backbone.frozen()
    }
    vae = frozen_networks[id(backbone.vae)]
    state = _optimizer_state(recipe)
    uncounted = any(cost.memory is None for cost in rewards)
    on_demand = recipe.module.frozen_on_demand
    together: Any = max if on_demand and rewards else sum  # those that wait come one at a time
    sizes: dict[str, int | None] = {
        "CUDA context, about": CUDA_CONTEXT,
        "frozen weights": on_gpu * frozen_bytes // sharding.base,
        "trained weights": on_gpu * trained_bytes // sharding.trained,
        "gathered weights": _gathered(policy.transformer, backbone.blocks(), sharding),
        "reference copy": num_bytes(policy.transformer.parameters()) if policy.keep_reference else 0,
        "merged weights": num_bytes(_adapted(policy.transformer)) if policy.merge_adapters else 0,
        "text encoders": sum(frozen_networks.values()) - vae,
        "VAE": vae,
        "text embeddings": costs.text.held * backbone.cache_size,
        "rewards": together(cost.memory or 0 for cost in rewards) or (None if uncounted else 0),
        "metrics' networks": metric_bytes(recipe.metrics),
        "learning detectors": sum(cost.held for cost in learning),
        "gradients": _gradients(recipe, trained_bytes),
        "optimizer state": None if state is None else on_gpu * state // sharding.trained,
        "moving averages": on_gpu * recipe.averages * sum(w.numel() for w in trained) * FLOAT32 // sharding.trained,
        "trajectories": counts.stored_latents * prod(policy.latent_shape) * FLOAT32,
        "images": counts.images * 3 * policy.height * policy.width * FLOAT32,
    }
    # A reward on the policy's GPU is not computed beside the rollout, so its activations are a phase's own.
    scoring = (cost.alive * min(cost.batch_size, counts.images) for cost in rewards)
    activations = _activations(counts, costs) | {"reward": max(scoring, default=0)}
    if learning:
        activations["detectors' update"] = max(cost.alive for cost in learning)
    sizes["activations"] = max(activations.values())
    host = num_bytes(weights) + (sizes["reference copy"] or 0) + sum(frozen_networks.values())
    host += sum(cost.memory or 0 for cost in rewards) + (sizes["metrics' networks"] or 0)
    host += sum(cost.held + cost.buffer for cost in learning)
    return Memory(sizes, find_peaks(sizes, activations, on_demand=on_demand), host)


def find_peaks(
    sizes: Mapping[str, int | None], activations: Mapping[str, int], *, on_demand: bool = False
) -> dict[str, int]:
    """Add up the bytes held at each phase's fullest moment: of ``sizes``, as in ``Memory``, and its activations."""
    peaks = {}
    for phase, added in activations.items():
        absent = {"text encoders", "VAE", "rewards"}.difference(ON_DEMAND.get(phase, ())) if on_demand else set()
        if phase != "update":
            absent.add("gradients")
        if phase != "reference":
            absent.add("reference copy")
        held = sum(size or 0 for name, size in sizes.items() if name not in absent and name != "activations")
        peaks[phase] = held + added
    return peaks


def _adapted(transformer: nn.Module) -> Iterator[Tensor]:
    """Yield the weights that have adapters."""
    for layer in transformer.modules():
        if (base := getattr(layer, "get_base_layer", None)) is not None:
            yield base().weight


def _activations(counts: Counts, costs: UnitCosts) -> dict[str, int]:
    """Return what each phase adds at its fullest moment."""
    found = {"text encoding": costs.text.peak, "rollout": 0, "reference": 0, "lagged": 0, "update": 0}
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
