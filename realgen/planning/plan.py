"""The plan of a recipe: what one iteration of one rank asks for, phase by phase."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from realgen.logging_filters import errors_only
from realgen.planning.architecture import find_architecture
from realgen.planning.cautions import find_cautions
from realgen.planning.memory import Memory, find_memory
from realgen.planning.meta_pipeline import load_on_meta
from realgen.planning.phases import Part, find_parts
from realgen.planning.prices import find_prices
from realgen.planning.recipe import Recipe
from realgen.planning.rehearsal import rehearse
from realgen.planning.rewards import RewardCost, reward_costs

WORD = "a "
"""A prompt of N of these has N tokens, or somewhat fewer or more."""


@dataclass(frozen=True)
class Plan:
    """What one iteration of one rank asks for."""

    parts: tuple[Part, ...]
    """Phase by phase."""
    memory: Memory
    """Bytes on one GPU."""
    ranks: int
    """Processes that train together, each doing as much."""
    images: int
    """Images of one iteration on all ranks."""
    parameters: int
    """Weights of the transformer, adapters included."""
    trained: int
    """Those that are trained."""
    strategy: str
    """How the policy is spread over the ranks."""
    architecture: str
    """Where the model's shape was read."""
    assumptions: tuple[str, ...]
    """What a reader must know of how this was counted."""
    cautions: tuple[str, ...]
    """What a reader should think about before spending GPUs."""


def make_plan(recipe: Recipe, *, prompt_tokens: int = 64) -> Plan:
    """Count what a recipe asks for; loads its policy on the meta device.

    Args:
        recipe: Its policy not loaded yet.
        prompt_tokens: Tokens of a usual prompt, at least 1; decides where a model does not pad its texts.

    Returns:
        The plan.

    Raises:
        ValueError: If the model's shape is nowhere to be found, the policy is not one that can be planned, or it
            refuses its settings: size, window, LoRA targets and others.
    """
    if prompt_tokens < 1:
        raise ValueError(f"prompt_tokens must be at least 1, got {prompt_tokens}.")
    module, policy = recipe.module, recipe.policy
    _check_rows(recipe)
    architecture = find_architecture(policy.backbone.pretrained)
    untouched = copy.deepcopy(policy)
    policy.compile_blocks = False  # nothing is gained on tensors without numbers
    with errors_only():
        load_on_meta(policy, architecture)
    counts = rehearse(
        untouched,
        policy.backbone,
        module.objective,
        prompts=recipe.prompts,
        group_size=module.group_size,
        microbatch_size=module.microbatch_size,
        inner_epochs=module.inner_epochs,
        updates_per_epoch=module.updates_per_epoch,
    )
    with errors_only():  # a tokenizer of letters cuts the prompt off
        prices = find_prices(policy, counts.rows, prompt=(WORD * prompt_tokens).strip())
    rewards = reward_costs(recipe.reward, height=policy.height, width=policy.width)
    memory = find_memory(recipe, counts, prices, rewards)
    trained = policy.trainable_parameters().values()
    return Plan(
        parts=tuple(find_parts(recipe, counts, prices, rewards, memory)),
        memory=memory,
        ranks=recipe.sharding.ranks,
        images=counts.images * recipe.sharding.ranks,
        parameters=sum(weight.numel() for weight in policy.transformer.parameters()),
        trained=sum(weight.numel() for weight in trained),
        strategy=recipe.sharding.name,
        architecture=architecture.source,
        assumptions=_assumptions(recipe, rewards, prompt_tokens),
        cautions=tuple(find_cautions(recipe, rewards)),
    )


def _check_rows(recipe: Recipe) -> None:
    group, updates = recipe.module.group_size, recipe.module.updates_per_epoch
    rows = recipe.prompts * group
    if rows % updates:
        raise ValueError(
            f"model.updates_per_epoch: expected a divisor of the {rows} rows of an iteration "
            f"(data.prompts_per_iteration={recipe.prompts} x model.group_size={group}), got {updates}."
        )


def _assumptions(recipe: Recipe, rewards: Sequence[RewardCost], prompt_tokens: int) -> tuple[str, ...]:
    """What was taken for granted."""
    policy = recipe.policy
    said = [
        "FLOPs: of matrix products, convolutions and attention; everything else is part of the utilization",
        "left out: validation, logging, checkpoints, communication between GPUs, loading, and the rewards' activations",
        "taken for granted: no group has zero advantages, so no row is spared",
    ]
    if len(policy.step_window.starts(policy.num_steps)) > 1:
        said.append("taken for granted: a window that moves is everywhere equally often")
    if not getattr(policy.backbone, "text_is_padded", True):
        said.append(f"taken for granted: a prompt has {prompt_tokens} tokens (--prompt_tokens)")
    said += [f"taken for granted: {cost.note}" for cost in rewards if cost.note and cost.image is not None]
    if policy is not recipe.module.policy:
        said.append("left out: the rewriter's work")
    return tuple(said)
