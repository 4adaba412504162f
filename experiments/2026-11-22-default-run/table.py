"""Print before -> after over several runs of one recipe, as mean and range.

python experiments/2026-11-22-default-run/table.py runs/diffusion/*/summary.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean


def spread(values: list[float]) -> str:
    """Mean and range."""
    return f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def table(reports: list[dict]) -> str:
    """One Markdown row per measure."""
    rows = ["| measure | before | after | better in |", "|---|---|---|---|"]
    for name in reports[0]["before"]["values"]:
        before, after = ([report[key]["values"][name] for report in reports] for key in ("before", "after"))
        better = sum(report["verdicts"].get(name) == "better" for report in reports)
        rows.append(f"| {name} | {spread(before)} | {spread(after)} | {better} of {len(reports)} |")
    return "\n".join(rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("summaries", nargs="+", type=Path, help="summary.json of each run")
    print(table([json.loads(path.read_text()) for path in parser.parse_args().summaries]))


if __name__ == "__main__":
    main()
