"""What to think about before GPUs are spent: settings that do less, or cost more, than they seem to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from realgen.planning.forecast import Forecast
from realgen.planning.gpus import format_gib
from realgen.planning.meter import total
from realgen.planning.plan import Plan
from realgen.planning.recipe import Recipe
from realgen.policies import SlidingWindow


def find_warnings(recipe: Recipe, plan: Plan, expected: Forecast | None) -> Iterator[str]:
    """Look for what a user may not have meant.

    Args:
        recipe: Its policy loaded, on the meta device.
        plan: Of the recipe.
        expected: The plan on some GPU; None without one.

    Yields:
        One sentence for each.
    """
    yield from _untrained_steps(recipe)
    for cost in plan.rewards:
        if cost.image is None and cost.memory is None:
            yield f"reward {cost.name} is counted neither in seconds nor in memory: {cost.note}"
    size, rows = recipe.module.microbatch_size, recipe.rows_per_update
    if size > rows:
        yield f"model.microbatch_size={size} is more than the {rows} rows of an update"
    if recipe.precision in ("bf16-true", "16-true"):
        yield (
            f"trainer.precision={recipe.precision} rounds the trained weights too, and small updates are lost; "
            "policy.backbone.dtype rounds the frozen ones alone"
        )
    if expected is not None:
        yield from _memory_and_rates(plan, expected)


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
        moves = range(0, recipe.iterations, window.interval)
        reached = {int(window.sample(1, steps, iteration=i, generator=generator)) for i in moves}
        if len(reached) < len(starts):
            yield (
                f"in {recipe.iterations} iterations the window starts at steps {_ranges(sorted(reached))}, of "
                f"{_ranges(list(starts))}; the rest is never trained, and seconds are a mean over all of them"
            )


def _memory_and_rates(plan: Plan, expected: Forecast) -> Iterator[str]:
    gpu = expected.gpu
    for phase, size in plan.memory.peaks.items():
        if 0 < 0.9 * gpu.memory < size:
            how = "more than" if size > gpu.memory else "nearly all of"
            yield f"{phase} needs {format_gib(size)} GiB, {how} the {format_gib(gpu.memory)} GiB of a {gpu.name}"
    if not gpu.bandwidth:
        for row in plan.rows:
            if row.work and row.traffic:
                yield f"seconds of {row.name} are those of its FLOPs alone: the GPU's bandwidth is not known"
    works = [row.work for row in plan.rows if row.work and "bf16" in row.work and "fp32" in row.work]
    few = [work["fp32"] for work in works if work["fp32"] < 0.1 * total(work)]  # a low-precision solver leaves more
    slow = gpu.seconds({"fp32": sum(few, 0.0)}, expected.utilization)
    if slow > 0.05 * expected.iteration:
        faster = "trainer.precision=bf16-mixed would round them to bfloat16"
        if gpu.fp32 < gpu.tf32:
            faster = f"float32_matmul_precision=high lets the GPU round their factors to TF32, and {faster}"
        yield (
            f"{slow:.3g} of the {expected.iteration:.4g} seconds are products in float32 beside a model in bfloat16 "
            f"(its adapters); {faster}"
        )


def _ranges(numbers: Sequence[int]) -> str:
    """Write rising numbers as ranges.

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
