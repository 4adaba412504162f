"""Phase by phase, what one iteration of one rank computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

from realgen.planning.memory import Memory
from realgen.planning.meter import Work, add, rounded, scale
from realgen.planning.prices import Prices
from realgen.planning.recipe import Recipe
from realgen.planning.rehearsal import Counts
from realgen.planning.rewards import RewardCost


@dataclass(frozen=True)
class Part:
    """One row of a plan."""

    phase: str
    """``rollout``, ``reward``, ``reference`` or ``update``: what a run measures."""
    name: str
    """The part of it."""
    work: Work | None = None
    """FLOPs by rate; None where they were not counted."""
    evals: float | None = None
    """Rows that the transformer is called with; None where it is not called."""
    traffic: float = 0.0
    """Bytes to and from the GPU's memory that FLOPs do not hide."""
    note: str = ""
    """Why something was not counted, or what was taken for granted."""


def find_parts(
    recipe: Recipe, counts: Counts, prices: Prices, rewards: Sequence[RewardCost], memory: Memory
) -> Iterator[Part]:
    """Multiply prices and counts.

    Args:
        recipe: Its policy loaded, on the meta device.
        counts: Of the rehearsal.
        prices: Of each call.
        rewards: Of each part of the reward.
        memory: For what the optimizer reads and writes.

    Yields:
        The parts in the order of an iteration.
    """
    mixed = "mixed" in recipe.precision
    yield Part("rollout", "text encoding", scale(prices.text.work, counts.encoded))
    yield _transformer("rollout", "transformer", counts, prices, mixed=mixed)
    yield Part("rollout", "VAE decode", scale(prices.decode.work, counts.decoded))
    for cost in rewards:
        work = None
        if cost.image is not None:
            work = add([scale(cost.image, float(counts.images)), scale(cost.prompt, float(recipe.prompts))])
        yield Part(
            "reward", cost.name, work, traffic=cost.traffic * ceil(counts.images / cost.batch_size), note=cost.note
        )
    if counts.evals("reference"):
        yield _transformer("reference", "transformer", counts, prices, mixed=mixed)
    yield _transformer("update", "forward", counts, prices, mixed=mixed)
    backward = add(scale(work, counts.rows[kind]) for kind, work in prices.backward.items())
    yield Part("update", "backward", rounded(backward) if mixed else backward)
    yield Part("update", "optimizer", {}, traffic=float(counts.updates * _optimizer_traffic(memory)))


def _transformer(phase: str, name: str, counts: Counts, prices: Prices, *, mixed: bool) -> Part:
    kinds = [kind for kind in counts.rows if kind.phase == phase]
    work = add(scale(prices.velocity[kind].work, counts.rows[kind]) for kind in kinds)
    return Part(phase, name, rounded(work) if mixed else work, evals=counts.evals(phase))


def _optimizer_traffic(memory: Memory) -> int:
    """Bytes of one update: weights, state and averages are read and written, gradients read."""
    twice = ("trained weights", "optimizer state", "moving averages")
    return 2 * sum(memory.parts[name] or 0 for name in twice) + (memory.parts["gradients"] or 0)
