"""How long a plan takes on some GPU, by the rates of its maker's data sheet, and how long a run took."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from realgen.benchmark.comparison.runs import log_numbers
from realgen.planning.plan import Plan

SECONDS, PEAK = "seconds/", "gpu_peak_gib"
"""Names in a run's log: of the seconds of a phase, and of the most memory so far."""
GIB = 2**30


def format_gib(size: float | int) -> str:
    """Write bytes in GiB."""
    gibibytes = size / GIB
    return f"{gibibytes:.2f}" if 0.1 <= gibibytes < 100 else f"{gibibytes:.2g}" if gibibytes < 1 else f"{gibibytes:.0f}"


@dataclass(frozen=True)
class GPU:
    """Peak rates and memory of one GPU. Matrix rates are dense: half of what data sheets tell with sparsity."""

    name: str
    """For the reader of a plan."""
    bf16: float
    """TFLOP/s of matrix products in bfloat16 or float16, summed in float32."""
    tf32: float
    """TFLOP/s in float32 where factors may be rounded to TF32, as PyTorch lets cuDNN do for convolutions."""
    fp32: float
    """TFLOP/s of matrix products in float32, which PyTorch rounds only by a setting."""
    memory: float
    """Bytes; 0 where it is not known."""
    source: str
    """Where the numbers come from."""

    def at_precision(self, float32_matmul_precision: str) -> GPU:
        """Use the rate of TF32 for float32 products too, unless the precision is ``highest``.

        ``medium`` counts as ``high``: products run in TF32 as well, as on CUDA today.
        """
        if float32_matmul_precision == "highest" or self.fp32 >= self.tf32:
            return self
        source = f"{self.source}; float32 rounded to TF32, float32_matmul_precision={float32_matmul_precision}"
        return replace(self, fp32=self.tf32, source=source)

    def seconds(self, work: Mapping[str, float], utilization: float) -> float:
        """Return the seconds for some work (``meter.Work``) at a share, above 0, of the GPU's peak."""
        return sum((flops / (getattr(self, rate) * 1e12 * utilization) for rate, flops in work.items()), 0.0)


GPUS: Mapping[str, GPU] = {
    "a100-40": GPU("A100 SXM 40 GB", 312.0, 156.0, 19.5, 40.0 * GIB, "NVIDIA A100 data sheet, dense"),
    "a100-80": GPU("A100 SXM 80 GB", 312.0, 156.0, 19.5, 80.0 * GIB, "NVIDIA A100 data sheet, dense"),
    "h100": GPU("H100 SXM 80 GB", 989.4, 494.7, 66.9, 79.6 * GIB, "NVIDIA H100 data sheet, half of sparse"),
    "h200": GPU("H200 SXM 141 GB", 989.4, 494.7, 66.9, 140.0 * GIB, "NVIDIA H200 data sheet, half of sparse"),
    "b200": GPU("B200 SXM 180 GB", 2250.0, 1100.0, 75.0, 179.0 * GIB, "NVIDIA HGX B200 data sheet, half of sparse"),
    "l40s": GPU("L40S 48 GB", 362.0, 183.0, 91.6, 45.0 * GIB, "NVIDIA L40S data sheet, dense"),
    "rtx4090": GPU("GeForce RTX 4090 24 GB", 165.2, 82.6, 82.6, 24.0 * GIB, "NVIDIA Ada white paper, dense"),
    "a6000": GPU("RTX A6000 48 GB", 154.8, 77.4, 38.7, 48.0 * GIB, "NVIDIA RTX A6000 data sheet, half of sparse"),
}
"""By the name that ``--gpu`` takes. Memory is what the driver tells, which is a little less than the name says."""


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
    if not any(run.glob("csv/version_*/metrics.csv")):
        raise ValueError(f"measured must be the folder of a run, with csv/version_0/metrics.csv, got {str(run)!r}.")
    numbers = log_numbers(run)
    iterations = list(numbers.get(f"{SECONDS}rollout", {}))
    if not iterations:
        raise ValueError(f"measured: the log in {str(run)!r} has no finished iteration.")
    iterations = iterations[1:] or iterations
    found = {name: [each[i] for i in iterations if i in each] for name, each in numbers.items()}
    medians = {name: statistics.median(each) for name, each in found.items() if each}
    seconds = {name.removeprefix(SECONDS): each for name, each in medians.items() if name.startswith(SECONDS)}
    peak = max((each * GIB for each in found.get(PEAK, ())), default=None)
    return Measured(len(iterations), seconds, medians.get("transformer_evals"), peak)
