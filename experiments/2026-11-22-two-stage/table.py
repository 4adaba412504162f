"""The four rows of the paper in the nano world, as mean and range over seeds.

python experiments/2026-11-22-two-stage/table.py runs/two_stage/0 runs/two_stage/1 runs/two_stage/2

Each folder holds the runs of one seed: `llm`, `images` and `both`; see README.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean

ROWS = (
    ("base", "images", "before"),
    ("rewriting, before GRPO", "llm", "before"),
    ("rewriting, after GRPO", "llm", "after"),
    ("diffusion GRPO", "images", "after"),
    ("both", "both", "after"),
)
"""Name, run, and which of its two validations."""
COLUMNS = ("omniaid", "held_out_realism", "judged_real", "kid", "alignment", "color_distance", "spectrum_distance")


def spread(values: list[float]) -> str:
    """Mean and range."""
    return f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def table(folders: list[Path]) -> str:
    """One Markdown row per way to draw."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, run, when in ROWS:
        reports = [json.loads((folder / run / "summary.json").read_text())[when]["values"] for folder in folders]
        values = ([report.get(f"reward/{key}", report.get(key)) for report in reports] for key in COLUMNS)
        lines.append(f"| {name} | " + " | ".join(map(spread, values)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="one per seed")
    print(table(parser.parse_args().folders))


if __name__ == "__main__":
    main()
