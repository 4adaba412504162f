"""Compares runs honestly: ``python -m realgen.compare --help``."""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from realgen.cli.error_frame import run_command
from realgen.options import OptionParser

_EXAMPLE = """\
examples:
  python -m realgen.compare runs/diffusion/* runs/mine/* --output comparison.html
  python -m realgen.compare runs/diffusion/20261201-093000
  python -m realgen.compare runs/realbench/before runs/realbench/after --json > comparison.json

Runs of the same config but for the seed are one group; the first group is what the others are held against. All are
compared on the prompts that all have, with the same noise, where all have drawn as many images in training, and again
where all have trained as many seconds (mean over prompts and seeds; between two validations both are interpolated).
Runs of one group, or a single one, are compared with themselves: the last validation against the first one.
The interval of a difference is paired by prompt and covers prompts and seeds; of a group with one seed, prompts only.
Seconds are comparable only on the same machine with nothing else running.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_command(partial(_compare, arguments), doing="comparing")


def _compare(arguments: Sequence[str] | None) -> int:
    options = parse_arguments(arguments)
    # Imported here, so that --help does not wait for torch.
    from realgen.benchmark.comparison.comparison import compare_runs, group_runs
    from realgen.benchmark.comparison.runs import read_runs
    from realgen.benchmark.comparison.tables import as_json, csv_rows, latex, show, tables
    from realgen.tables import csv_bytes

    runs = [run for folder in options.runs for run in read_runs(folder)]
    comparison = compare_runs(runs, resamples=options.resamples, confidence=options.confidence, seed=options.seed)
    if options.output is not None:
        from realgen.benchmark.report.run_page import write_run_report

        if any(run.kind == "benchmark" for run in runs):
            raise ValueError("--output: a page is of training runs; realgen.realbench writes its own report.html.")
        groups = {group.name: group.runs for group in group_runs(runs)}
        shown = tables(comparison) if len(runs) > 1 else []
        lines = {g.name: ", ".join(f"{key} {value}" for key, value in g.settings.items()) for g in comparison.groups}
        settings = [f"{name}: {line}" for name, line in lines.items()]
        write_run_report(groups, options.output, title=f"{len(runs)} runs", tables=shown, settings=settings)
    if options.csv:
        sys.stdout.write(csv_bytes(csv_rows(comparison)).decode())
    elif options.latex:
        print("\n\n".join(f"% {table.caption}\n{latex(table)}" for table in tables(comparison)))
    elif options.json:
        print(json.dumps(as_json(comparison), indent=2, ensure_ascii=False))
    else:
        from rich.console import Console

        # As wide as the tables need: where the output is no terminal it would be 80 columns, with numbers cut in two.
        show(comparison, Console(soft_wrap=True, width=1000, highlight=False))
    return 0


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(
        prog="python -m realgen.compare",
        description="Compare training runs, or models of RealBench runs: paired by prompt, over seeds, at equal price.",
        epilog=_EXAMPLE,
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="folder of realgen.fit or realgen.realbench, or one of such")
    add("--output", type=Path, metavar="PAGE", help="write curves, pictures and tables of training runs as HTML too")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print everything as JSON in place of tables")
    form.add_argument("--csv", action="store_true", help="print a row for each price, metric and group")
    form.add_argument("--latex", action="store_true", help="print tables for a paper, which uses booktabs")
    add("--confidence", type=float, default=0.95, metavar="X", help="of the intervals (default: %(default)s)")
    add("--resamples", type=int, default=2000, metavar="N", help="of the bootstrap (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of the bootstrap (default: %(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
