"""What to think about before GPUs are spent: settings that do less, or cost more, than they seem to."""

from collections.abc import Iterator, Sequence

import torch

from realgen.planning.forecast import Forecast, format_gib
from realgen.planning.plan import Plan
from realgen.planning.recipe import Recipe
from realgen.policies import SlidingWindow


def find_warnings(recipe: Recipe, plan: Plan, expected: Forecast | None) -> Iterator[str]:
    """Yield a sentence for each setting that a user may not have meant; the recipe's policy is on the meta device."""
    yield from _untrained_steps(recipe)
    yield from _other_rows(recipe, plan)
    for cost in plan.rewards:
        if cost.image is None and cost.memory is None:
            yield f"reward {cost.name} is counted neither in seconds nor in memory: {cost.note}"
    size, rows = recipe.module.microbatch_size, recipe.rows_per_update
    if size > rows:
        yield f"model.microbatch_size={size} is more than the {rows} rows of an update"
    backbone = recipe.policy.backbone
    if backbone.cache_size < (texts := recipe.prompts + backbone.guided):
        yield (
            f"model.policy.backbone.cache_size={backbone.cache_size} is less than the {texts} texts of an iteration, "
            "which are embedded again at each scoring"
        )
    if recipe.precision in ("bf16-true", "16-true"):
        yield (
            f"trainer.precision={recipe.precision} rounds the trained weights too, and small updates are lost; "
            "policy.backbone.dtype rounds the frozen ones alone"
        )
    if expected is not None:
        yield from _memory(plan, expected)


def _other_rows(recipe: Recipe, plan: Plan) -> Iterator[str]:
    dtype, calls = next(recipe.policy.transformer.parameters()).dtype, plan.decision_calls
    rounds = dtype != torch.float32 or "16" in recipe.precision
    if rounds and recipe.module.old_log_probs == "rollout" and len({*calls["rollout"], *calls["update"]}) > 1:
        sampled, scored = (_ranges(calls[phase]) for phase in ("rollout", "update"))
        yield (
            f"calls inside the window have {sampled} rows in the rollout and {scored} in the update, and in 16 bits "
            "products of other sizes round differently, which alone moves ratios from 1; let model.microbatch_size "
            "times the window's steps equal model.policy.rollout_batch_size and divide the rows of a chunk, or set "
            "model.old_log_probs=rescored"
        )


def _untrained_steps(recipe: Recipe) -> Iterator[str]:
    policy = recipe.policy
    window, steps = policy.step_window, policy.num_steps
    starts, size = window.starts(steps), window.decisions(steps)
    covered = {step for start in starts for step in range(start, start + size)}
    missed = [step for step in range(steps) if step not in covered]
    if missed and policy.draws is None:
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


def _memory(plan: Plan, expected: Forecast) -> Iterator[str]:
    gpu = expected.gpu
    for phase, size in plan.memory.peaks.items():
        if 0 < 0.9 * gpu.memory < size:
            how = "more than" if size > gpu.memory else "nearly all of"
            yield f"{phase} needs {format_gib(size)} GiB, {how} the {format_gib(gpu.memory)} GiB of a {gpu.name}"


def _ranges(numbers: Sequence[int]) -> str:
    """Write rising numbers as ranges."""
    groups: list[list[int]] = []
    for number in numbers:
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(f"{group[0]}-{group[-1]}" if len(group) > 1 else str(group[0]) for group in groups)
