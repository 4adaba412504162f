"""What should be thought about before GPUs are spent, as far as it can be known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from realgen.planning.recipe import Recipe
from realgen.planning.rewards import RewardCost
from realgen.policies import SlidingWindow


def find_cautions(recipe: Recipe, rewards: Sequence[RewardCost]) -> Iterator[str]:
    """Look for settings that do less, or cost more, than they seem to.

    Args:
        recipe: Its policy loaded, on the meta device.
        rewards: Of each part of the reward.

    Yields:
        One sentence for each.
    """
    policy, module = recipe.policy, recipe.module
    if policy.transition.noise_level == 0:
        yield "policy.transition.noise_level is 0, so no step is a decision and nothing is trained; the run will refuse"
    yield from _untrained_steps(recipe)
    for cost in rewards:
        if cost.image is None and cost.memory is None:
            yield f"reward {cost.name} is counted neither in seconds nor in memory: {cost.note}"
    rows = recipe.prompts * module.group_size // module.updates_per_epoch
    if module.microbatch_size > rows:
        yield f"model.microbatch_size={module.microbatch_size} is more than the {rows} rows of an update"
    if recipe.precision in ("bf16-true", "16-true"):
        yield (
            f"trainer.precision={recipe.precision} rounds the trained weights too, and small updates are lost; "
            "policy.backbone.dtype rounds the frozen ones alone"
        )


def _untrained_steps(recipe: Recipe) -> Iterator[str]:
    policy = recipe.policy
    window, steps = policy.step_window, policy.num_steps
    starts, size = window.starts(steps), window.decisions(steps)
    covered = {step for start in starts for step in range(start, start + size)}
    missed = [step for step in range(steps) if step not in covered]
    if missed:
        yield f"steps {_ranges(missed)} of {steps} are never inside the window, and never trained"
    if isinstance(window, SlidingWindow) and recipe.iterations is not None:
        generator = torch.Generator()
        moments = range(0, recipe.iterations, window.interval)
        reached = {int(window.sample(1, steps, iteration=i, generator=generator)) for i in moments}
        if len(reached) < len(starts):
            yield (
                f"in {recipe.iterations} iterations the window starts at steps {_ranges(sorted(reached))}, of "
                f"{_ranges(list(starts))}; the rest is never trained, and seconds are a mean over all of them"
            )


def _ranges(numbers: Sequence[int]) -> str:
    """Rising numbers, told as ranges.

    Example:
        >>> _ranges([0, 1, 2, 7])
        '0-2, 7'
    """
    groups: list[list[int]] = []
    for number in numbers:
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(f"{group[0]}-{group[-1]}" if len(group) > 1 else str(group[0]) for group in groups)
