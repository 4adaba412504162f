"""How long a plan takes on some GPU, and how long a run took."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from realgen.planning.gpus import GIB, GPU
from realgen.planning.plan import Plan
from realgen.tables import complete_rows

SECONDS, PEAK = "seconds/", "gpu_peak_gib"
"""Names in a run's log: of the seconds of a phase, and of the most memory so far."""


@dataclass(frozen=True)
class Forecast:
    """A plan on some GPU."""

    gpu: GPU
    """Which."""
    utilization: float
    """Share of its peak that is reached; an assumption."""
    seconds: tuple[float | None, ...]
    """Of each row of the plan; None where its FLOPs were not counted."""
    images: int
    """Of one iteration."""

    @property
    def iteration(self) -> float:
        """Seconds of an iteration, without rows that were not counted."""
        return sum(value or 0.0 for value in self.seconds)

    @property
    def hours_per_1000_images(self) -> float:
        """Hours for 1,000 images, of all ranks together."""
        return self.iteration / self.images * 1000 / 3600


def forecast(plan: Plan, gpu: GPU, utilization: float) -> Forecast:
    """Turn the FLOPs of a plan into seconds of a GPU, of whose peak a share is reached.

    Raises:
        ValueError: If ``utilization`` is not above 0 and at most 1.
    """
    if not 0 < utilization <= 1:
        raise ValueError(f"utilization must be above 0 and at most 1, got {utilization}.")
    seconds = (None if row.work is None else gpu.seconds(row.work, utilization) for row in plan.rows)
    return Forecast(gpu, utilization, tuple(seconds), plan.images)


@dataclass(frozen=True)
class Measured:
    """What a run has logged, as medians over its iterations without the first, which warms up."""

    iterations: int
    """How many."""
    seconds: Mapping[str, float]
    """By phase."""
    evals: float | None
    """Rows that the transformer was called with on the first rank; None where the run does not log it."""
    peak: float | None
    """Most bytes of tensors on the first rank's GPU, validation included; None without a GPU."""

    @property
    def iteration(self) -> float:
        """Seconds of an iteration."""
        return sum(self.seconds.values())


def read_measured(run: Path) -> Measured:
    """Read time and memory of a run from ``csv/version_*/metrics.csv`` in its folder.

    Raises:
        ValueError: If the folder has no log, or no iteration is in it.
    """
    files = sorted(run.glob("csv/version_*/metrics.csv"))
    if not files:
        raise ValueError(f"measured must be the folder of a run, with csv/version_0/metrics.csv, got {str(run)!r}.")
    rows = [row for file in files for row in complete_rows(file) if row.get(f"{SECONDS}rollout")]
    if not rows:
        raise ValueError(f"measured: the log in {str(run)!r} has no finished iteration.")
    rows = rows[1:] or rows
    evals = [float(row["transformer_evals"]) for row in rows if row.get("transformer_evals")]
    return Measured(
        iterations=len(rows),
        seconds=_medians(rows, SECONDS),
        evals=statistics.median(evals) if evals else None,
        peak=max((float(row[PEAK]) * GIB for row in rows if row.get(PEAK)), default=None),
    )


def _medians(rows: list[dict[str, str]], prefix: str) -> dict[str, float]:
    names = [name for name in rows[0] if name is not None and name.startswith(prefix)]
    values = {name: [float(row[name]) for row in rows if row.get(name)] for name in names}
    return {name.removeprefix(prefix): statistics.median(found) for name, found in values.items() if found}
