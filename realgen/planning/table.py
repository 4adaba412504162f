"""A plan for people, and for machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from realgen.planning.forecast import Forecast, Measured
from realgen.planning.gpus import GIB
from realgen.planning.meter import total
from realgen.planning.phases import Part
from realgen.planning.plan import Plan

NOT_COUNTED = "not counted"


def show(plan: Plan, expected: Forecast | None, measured: Measured | None, console: Console) -> None:
    """Print everything.

    Args:
        plan: What there is to do.
        expected: How long it takes; None without a GPU.
        measured: How long it took; None without a run.
        console: Where to.
    """
    ranks = f"{plan.ranks} GPUs" if plan.ranks > 1 else "1 device"
    for name, text in _head(plan, expected, ranks):
        console.print(f"[bold]{name:11}[/]  {escape(text)}", highlight=False)
    console.print(phase_table(plan, expected, measured))
    if expected is not None:
        hours = f"{expected.hours_per_1000_images:.3g} hours for 1,000 images on {ranks}"
        left_out = [part.name for part, value in zip(plan.parts, expected.seconds, strict=True) if value is None]
        without = f"; without {', '.join(left_out)}" if left_out else ""
        console.print(f"[bold]{expected.iteration:.4g} seconds[/] an iteration, {hours}{without}", highlight=False)
    if measured is not None:
        console.print(_told(plan, expected, measured), highlight=False)
    console.print(memory_table(plan, expected, measured))
    for caution in (*plan.cautions, *gpu_cautions(plan, expected)):
        console.print(f"[yellow]caution:[/] {escape(caution)}", highlight=False)
    for assumption in plan.assumptions:
        console.print(f"[dim]{assumption}[/]", highlight=False)


def _head(plan: Plan, expected: Forecast | None, ranks: str) -> Iterator[tuple[str, str]]:
    weights = f"{plan.parameters / 1e6:,.1f} million weights, {plan.trained / 1e6:,.1f} million of them trained"
    yield "transformer", weights
    yield "its shape", plan.architecture
    yield "iteration", f"{plan.images} images on {ranks}, {plan.strategy}"
    if expected is not None:
        gpu = expected.gpu
        yield "GPU", f"{gpu.name}: {gpu.bf16:g} TFLOP/s in bfloat16, {gpu.fp32:g} in float32 ({gpu.source})"
        yield "assumed", f"{expected.utilization:.0%} of these rates are reached (--utilization)"


def phase_table(plan: Plan, expected: Forecast | None, measured: Measured | None) -> Table:
    """What one rank does in one iteration."""
    table = Table(title="one iteration of each GPU", box=SIMPLE, pad_edge=False, title_justify="left")
    table.add_column("phase", no_wrap=True)
    table.add_column("part", no_wrap=True)
    for name in ("transformer evals", "TFLOP", *(["seconds", "share"] if expected else [])):
        table.add_column(name, justify="right", no_wrap=True)
    if measured is not None:
        table.add_column("measured s", justify="right", no_wrap=True)
    seconds = expected.seconds if expected else (None,) * len(plan.parts)
    for phase, group in groupby(zip(plan.parts, seconds, strict=True), lambda pair: pair[0].phase):
        pairs = list(group)
        for part, value in pairs:
            table.add_row(phase, part.name, *_cells(part, value, expected), *([""] if measured else []))
        if measured is not None:
            counted = f"{sum(value or 0 for _, value in pairs):.4g}"
            took = f"{measured.seconds[phase]:.4g}" if phase in measured.seconds else ""
            table.add_row(phase, "", "", "", *([counted, ""] if expected else []), took, style="bold")
        table.add_section()
    evals = sum(part.evals or 0 for part in plan.parts)
    flops = sum(total(part.work) for part in plan.parts if part.work is not None)
    whole = [f"{expected.iteration:.4g}", ""] if expected else []
    lasted = [f"{measured.iteration:.4g}"] if measured else []
    table.add_row("all", "", f"{evals:,.0f}", _tera(flops), *whole, *lasted, style="bold")
    return table


def _cells(part: Part, seconds: float | None, expected: Forecast | None) -> list[str]:
    evals = "" if part.evals is None else f"{part.evals:,.4g}" if part.evals < 1000 else f"{part.evals:,.0f}"
    flops = NOT_COUNTED if part.work is None else _tera(total(part.work)) if part.work else ""
    if expected is None:
        return [evals, flops]
    if seconds is None:
        return [evals, flops, NOT_COUNTED, ""]
    return [evals, flops, f"{seconds:.4g}", f"{seconds / expected.iteration:.1%}" if expected.iteration else ""]


def _tera(flops: float) -> str:
    return f"{flops / 1e12:,.4g}" if flops < 1e15 else f"{flops / 1e12:,.0f}"


def _told(plan: Plan, expected: Forecast | None, measured: Measured) -> str:
    told = f"[bold]{measured.iteration:.4g} seconds[/] measured (median of {measured.iterations} iterations)"
    if measured.evals is not None:
        told += f", {measured.evals:,.0f} transformer evaluations"
    if expected is not None:
        ideal = sum(expected.gpu.seconds(part.work, 1.0) for part in plan.parts if part.work)
        told += f": {ideal / measured.iteration:.1%} of the GPU's peak"
    return told


def memory_table(plan: Plan, expected: Forecast | None, measured: Measured | None) -> Table:
    """What is in a GPU's memory, and its fullest moments."""
    table = Table(title="memory of each GPU", box=SIMPLE, pad_edge=False, title_justify="left")
    table.add_column("what", no_wrap=True)
    table.add_column("GiB", justify="right", no_wrap=True)
    if measured is not None:
        table.add_column("measured GiB", justify="right", no_wrap=True)
    empty = [""] if measured else []
    for name, size in plan.memory.parts.items():
        if size is None or size:
            table.add_row(name, NOT_COUNTED if size is None else _gib(size), *empty)
    table.add_section()
    for phase, size in plan.memory.peaks.items():
        table.add_row(f"most in {phase}", _gib(size), *empty)
    limit = f" of {_gib(expected.gpu.memory)}" if expected and expected.gpu.memory else ""
    took = [] if measured is None else ["" if measured.peak is None else _gib(measured.peak)]
    table.add_row("most of all", f"{_gib(plan.memory.peak)}{limit}", *took, style="bold")
    return table


def gpu_cautions(plan: Plan, expected: Forecast | None) -> Iterator[str]:
    """What is more than the GPU has, or nearly, and where its fast rate is not used.

    Yields:
        One sentence for each.
    """
    if expected is None:
        return
    limit = expected.gpu.memory
    for phase, size in plan.memory.peaks.items():
        if 0 < 0.9 * limit < size:
            how = "more than" if size > limit else "nearly all of"
            yield f"{phase} needs {_gib(size)} GiB, {how} the {_gib(limit)} GiB of a {expected.gpu.name}"
    if not expected.gpu.bandwidth:
        for part in plan.parts:
            if part.work and part.traffic:
                yield f"seconds of {part.name} are those of its FLOPs alone: the GPU's bandwidth is not known"
    works = [part.work for part in plan.parts if part.work and "bf16" in part.work and "fp32" in part.work]
    few = [work["fp32"] for work in works if work["fp32"] < 0.1 * total(work)]  # a low-precision solver leaves more
    slow = expected.gpu.seconds({"fp32": sum(few, 0.0)}, expected.utilization)
    if slow > 0.05 * expected.iteration:
        faster = "trainer.precision=bf16-mixed would round them to bfloat16"
        if expected.gpu.fp32 < expected.gpu.tf32:
            faster = f"float32_matmul_precision=high lets the GPU round their factors to TF32, and {faster}"
        yield (
            f"{slow:.3g} of the {expected.iteration:.4g} seconds are products in float32 beside a model in bfloat16 "
            f"(its adapters); {faster}"
        )


def _gib(size: float | int) -> str:
    gibibytes = size / GIB
    return f"{gibibytes:.2f}" if 0.1 <= gibibytes < 100 else f"{gibibytes:.2g}" if gibibytes < 1 else f"{gibibytes:.0f}"


def as_json(plan: Plan, expected: Forecast | None, measured: Measured | None) -> dict[str, Any]:
    """Everything in a form for ``json.dumps``; sizes in bytes, times in seconds."""
    found: dict[str, Any] = asdict(plan)
    found["memory"]["peak"] = plan.memory.peak
    found["cautions"] = [*plan.cautions, *gpu_cautions(plan, expected)]
    if expected is not None:
        for part, seconds in zip(found["parts"], expected.seconds, strict=True):
            part["seconds"] = seconds
        found["gpu"] = asdict(expected.gpu)
        found["utilization"] = expected.utilization
        found["iteration_seconds"] = expected.iteration
        found["hours_per_1000_images"] = expected.hours_per_1000_images
    if measured is not None:
        found["measured"] = {**asdict(measured), "iteration_seconds": measured.iteration}
    return found
