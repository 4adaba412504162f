"""A plan for people, and for machines."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from realgen.planning.forecast import Forecast, Measured, format_gib
from realgen.planning.meter import total
from realgen.planning.plan import Plan, PlanRow
from realgen.tables import Cell, styled, terminal_table

NOT_COUNTED = "not counted"


def show(
    plan: Plan, expected: Forecast | None, measured: Measured | None, warnings: Sequence[str], console: Console
) -> None:
    """Print a plan, how long it takes (None without a GPU) and took (None without a run), and what to think about."""
    devices = f"{plan.ranks} GPUs" if plan.ranks > 1 else "1 device"
    for name, text in _head(plan, expected, devices):
        console.print(f"[bold]{name:11}[/]  {escape(text)}", highlight=False)
    console.print(phase_table(plan, expected, measured))
    if expected is not None:
        hours = f"{expected.hours_per_1000_images:.3g} hours for 1,000 images on {devices}"
        left_out = [row.name for row, value in zip(plan.rows, expected.seconds, strict=True) if value is None]
        without = f"; without {', '.join(left_out)}" if left_out else ""
        console.print(f"[bold]{expected.iteration:.4g} seconds[/] an iteration, {hours}{without}", highlight=False)
    if measured is not None:
        console.print(_comparison(plan, expected, measured), highlight=False)
    console.print(memory_table(plan, expected, measured))
    for warning in warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False)
    for assumption in plan.assumptions:
        console.print(f"[dim]{escape(assumption)}[/]", highlight=False)


def _head(plan: Plan, expected: Forecast | None, devices: str) -> Iterator[tuple[str, str]]:
    weights = f"{plan.parameters / 1e6:,.1f} million weights, {plan.trained / 1e6:,.1f} million of them trained"
    yield "transformer", weights
    yield "its shape", plan.architecture
    yield "iteration", f"{plan.images} images on {devices}, {plan.strategy}"
    if expected is not None:
        gpu = expected.gpu
        yield "GPU", f"{gpu.name}: {gpu.bf16:g} TFLOP/s in bfloat16, {gpu.fp32:g} in float32 ({gpu.source})"
        yield "assumed", f"{expected.utilization:.0%} of these rates are reached (--utilization)"


def phase_table(plan: Plan, expected: Forecast | None, measured: Measured | None) -> Table:
    """Tabulate what one rank does in one iteration."""
    headings = ["phase", "what", "transformer evals", "TFLOP"]
    headings += ["seconds", "share"] if expected else []
    headings += ["measured s"] if measured else []
    rows: list[Sequence[Cell] | None] = []
    seconds = expected.seconds if expected else (None,) * len(plan.rows)
    for phase, group in groupby(zip(plan.rows, seconds, strict=True), lambda pair: pair[0].phase):
        pairs = list(group)
        rows += [[phase, row.name, *_cells(row, value, expected)] for row, value in pairs]
        if measured is not None:
            counted = f"{sum(value or 0 for _, value in pairs):.4g}"
            took = f"{measured.seconds[phase]:.4g}" if phase in measured.seconds else ""
            rows.append(styled("bold", phase, "", "", "", *([counted, ""] if expected else []), took))
        rows.append(None)
    evals = sum(row.evals or 0 for row in plan.rows)
    flops = sum(total(row.work) for row in plan.rows if row.work is not None)
    whole = [f"{expected.iteration:.4g}", ""] if expected else []
    whole += [f"{measured.iteration:.4g}"] if measured else []
    rows.append(styled("bold", "all", "", f"{evals:,.0f}", _tera(flops), *whole))
    return terminal_table(headings, rows, title="one iteration of each GPU", text_columns=(0, 1), framed=False)


def _cells(row: PlanRow, seconds: float | None, expected: Forecast | None) -> list[str]:
    evals = "" if row.evals is None else f"{row.evals:,.4g}" if row.evals < 1000 else f"{row.evals:,.0f}"
    flops = NOT_COUNTED if row.work is None else _tera(total(row.work))
    if expected is None:
        return [evals, flops]
    if seconds is None:
        return [evals, flops, NOT_COUNTED, ""]
    return [evals, flops, f"{seconds:.4g}", f"{seconds / expected.iteration:.1%}" if expected.iteration else ""]


def _tera(flops: float) -> str:
    return f"{flops / 1e12:,.4g}" if flops < 1e15 else f"{flops / 1e12:,.0f}"


def _comparison(plan: Plan, expected: Forecast | None, measured: Measured) -> str:
    text = f"[bold]{measured.iteration:.4g} seconds[/] measured (median of {measured.iterations} iterations)"
    if measured.evals is not None:
        text += f", {measured.evals:,.0f} transformer evaluations"
    if expected is not None:
        ideal = sum(expected.gpu.seconds(row.work, 1.0) for row in plan.rows if row.work)
        text += f": {ideal / measured.iteration:.1%} of the GPU's peak"
    return text


def memory_table(plan: Plan, expected: Forecast | None, measured: Measured | None) -> Table:
    """Tabulate what is in a GPU's memory, and its fullest moments."""
    rows: list[Sequence[Cell] | None] = [
        [name, NOT_COUNTED if size is None else format_gib(size)]
        for name, size in plan.memory.sizes.items()
        if size is None or size
    ]
    rows += [None, *([f"most in {phase}", format_gib(size)] for phase, size in plan.memory.peaks.items())]
    limit = f" of {format_gib(expected.gpu.memory)}" if expected and expected.gpu.memory else ""
    took = [] if measured is None else ["" if measured.peak is None else format_gib(measured.peak)]
    rows.append(styled("bold", "most of all", f"{format_gib(plan.memory.peak)}{limit}", *took))
    rows.append(["host memory at the start", format_gib(plan.memory.host)])
    headings = ["what", "GiB", *(["measured GiB"] if measured else [])]
    return terminal_table(headings, rows, title="memory of each GPU and its rank", framed=False)


def as_json(
    plan: Plan, expected: Forecast | None, measured: Measured | None, warnings: Sequence[str]
) -> dict[str, Any]:
    """Return everything in a form for ``json.dumps``; sizes in bytes, times in seconds."""
    found: dict[str, Any] = {**asdict(plan), "warnings": list(warnings)}
    found["memory"]["peak"] = plan.memory.peak
    if expected is not None:
        for row, seconds in zip(found["rows"], expected.seconds, strict=True):
            row["seconds"] = seconds
        found["gpu"] = asdict(expected.gpu)
        found["utilization"] = expected.utilization
        found["iteration_seconds"] = expected.iteration
        found["hours_per_1000_images"] = expected.hours_per_1000_images
    if measured is not None:
        found["measured"] = {**asdict(measured), "iteration_seconds": measured.iteration}
    return found
