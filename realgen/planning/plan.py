"""The plan of a recipe: what one iteration of one rank computes and holds, phase by phase."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

from realgen.checks import check_at_least
from realgen.logging_filters import errors_only
from realgen.planning.architecture import find_architecture, load_on_meta
from realgen.planning.dry_run import Counts, count_calls
from realgen.planning.learning_costs import LearningCost, learning_cost
from realgen.planning.memory import Memory, find_memory
from realgen.planning.meter import Work, add, rounded
from realgen.planning.recipe import Recipe
from realgen.planning.reward_costs import RewardCost, reward_costs
from realgen.planning.unit_costs import UnitCosts, find_unit_costs
from realgen.policies.diffusion_model import DEFAULT_ROWS

WORD = "a "
"""A prompt of N of these has N tokens, or somewhat fewer or more."""


@dataclass(frozen=True)
class PlanRow:
    """One row of a plan."""

    phase: str
    """``rollout``, ``reward``, ``reference`` or ``update``: what a run measures."""
    name: str
    """What is done."""
    work: Work | None = None
    """FLOPs by rate; None where they were not counted."""
    evals: float | None = None
    """Rows that the transformer is called with; None where it is not called."""


@dataclass(frozen=True)
class Plan:
    """What one iteration of one rank computes and holds."""

    rows: tuple[PlanRow, ...]
    """In the order of an iteration."""
    memory: Memory
    """Bytes on one GPU."""
    rewards: tuple[RewardCost, ...]
    """Of each component of the reward."""
    ranks: int
    """Processes that train together, each with as much work."""
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
    decision_calls: dict[str, list[int]]
    """Numbers of rows of the calls of ``rollout`` and ``update`` that the window's decisions are computed in."""
    assumptions: tuple[str, ...]
    """What a reader must know of how this was counted."""


def make_plan(recipe: Recipe, *, prompt_tokens: int = 64) -> Plan:
    """Count what a recipe computes; loads its policy, which is not loaded yet, on the meta device.

    A usual prompt has ``prompt_tokens``, at least 1, which decides where a model does not pad its texts.

    Raises:
        ValueError: If the model's shape is nowhere to be found, or the policy is not one that can be planned.
        ValueError: If module or policy refuse their settings: rows, noise, size, window, LoRA targets and others.
    """
    check_at_least(1, prompt_tokens=prompt_tokens)
    module, policy = recipe.module, recipe.policy
    module.policy.check_trainable("model.policy")
    module.check_rows(recipe.prompts)
    architecture = find_architecture(policy.backbone.pretrained)
    policy.rollout_batch_size = policy.rollout_batch_size or DEFAULT_ROWS
    untouched = copy.deepcopy(policy)
    policy.compile_blocks = False  # nothing is gained on tensors without numbers
    with errors_only():
        load_on_meta(policy, architecture)
    counts = count_calls(untouched, policy.backbone, module.objective, module, prompts=recipe.prompts)
    with errors_only():  # the placeholder tokenizer may cut the prompt off
        costs = find_unit_costs(policy, counts.rows, prompt=(WORD * prompt_tokens).strip())
    rewards = tuple(reward_costs(recipe.reward, height=policy.height, width=policy.width))
    side = min(policy.height, policy.width)
    learning = [learning_cost(each, recipe.reward, side=side) for each in recipe.learning]
    memory = find_memory(recipe, counts, costs, rewards, [cost for cost in learning if cost is not None])
    return Plan(
        rows=tuple(_rows(recipe, counts, costs, rewards)),
        memory=memory,
        rewards=rewards,
        ranks=recipe.sharding.ranks,
        images=counts.images * recipe.sharding.ranks,
        parameters=sum(weight.numel() for weight in policy.transformer.parameters()),
        trained=sum(weight.numel() for weight in policy.trainable_parameters().values()),
        strategy=recipe.sharding.name,
        architecture=architecture.source,
        decision_calls={phase: sorted(rows) for phase, rows in counts.decision_calls.items()},
        assumptions=(*_assumptions(recipe, rewards, prompt_tokens), *map(_learning, learning)),
    )


def _rows(recipe: Recipe, counts: Counts, costs: UnitCosts, rewards: tuple[RewardCost, ...]) -> Iterator[PlanRow]:
    """Multiply unit costs and counts."""
    mixed = "mixed" in recipe.precision

    def transformer(phase: str, name: str, counted: str | None = None) -> PlanRow:
        kinds = [kind for kind in counts.rows if kind.phase == (counted or phase)]
        work = add((costs.velocity[kind].work, counts.rows[kind]) for kind in kinds)
        return PlanRow(phase, name, rounded(work) if mixed else work, evals=counts.evals(counted or phase))

    yield PlanRow("rollout", "text encoding", add([(costs.text.work, counts.encoded)]))
    yield transformer("rollout", "transformer")
    yield PlanRow("rollout", "VAE decode", add([(costs.decode.work, counts.decoded)]))
    for cost in rewards:
        calls = [(cost.image or {}, counts.images), (cost.prompt, recipe.prompts)]
        yield PlanRow("reward", cost.name, None if cost.image is None else add(calls))
    if counts.evals("reference"):
        yield transformer("reference", "transformer")
    if counts.evals("lagged"):
        yield transformer("reference", "lagged weights", "lagged")
    yield transformer("update", "forward")
    backward = add((costs.velocity[kind].backward, rows) for kind, rows in counts.rows.items())
    yield PlanRow("update", "backward", rounded(backward) if mixed else backward)


def _learning(cost: LearningCost | None) -> str:
    if cost is None:
        return "left out: a detector that learns, and whose network a plan does not know"
    return (
        f"detector {cost.component} learns: its images take {cost.buffer / 2**30:.3g} GiB of each rank's host memory, "
        "most of it in the checkpoint too; the seconds of its updates are left out"
    )


def _assumptions(recipe: Recipe, rewards: tuple[RewardCost, ...], prompt_tokens: int) -> Iterator[str]:
    policy = recipe.policy
    yield "FLOPs: of matrix products, convolutions and attention; everything else is part of the utilization"
    yield "left out: validation but for its networks, logging, checkpoints, communication between GPUs, and loading"
    yield "taken for granted: no group has zero advantages, so no row is spared"
    if (refill := recipe.module.refill) is not None:
        yield f"left out: model.refill, which samples and scores again up to {refill.rounds} times an iteration"
    if len(policy.step_window.starts(policy.num_steps)) > 1:
        yield "taken for granted: a window that moves is everywhere equally often"
    if (narrow := getattr(policy.solver, "dtype", None)) is not None and policy.draws is None:
        outside = 1 - policy.step_window.decisions(policy.num_steps) / policy.num_steps
        yield (
            f"left out: {type(policy.solver).__name__} (approximate); {outside:.0%} of the rollout's steps multiply in "
            f"{str(narrow).removeprefix('torch.')}, worth at most half of their seconds where it is twice as fast"
        )
    if policy.measures_rows:
        yield f"taken for granted: the rollout_batch_size that a run will measure is {policy.rollout_batch_size}"
    if not getattr(policy.backbone, "text_is_padded", True):
        yield f"taken for granted: a prompt has {prompt_tokens} tokens (--prompt_tokens)"
    for cost in rewards:
        if cost.image is not None:
            yield f"taken for granted: {cost.note}"
    if policy is not recipe.module.policy:
        yield "left out: the rewriter's work"
