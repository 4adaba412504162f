"""Print the validations of several runs, those of one setting together: mean and range over seeds.

python experiments/2026-11-30-embedded-world/table.py base=runs/images/*:before images=runs/images/*

Each setting is NAME=RUN,RUN,... with folders of runs or patterns of them; ``:before`` takes their first validation.
"""

from __future__ import annotations

import argparse
import glob
import json
from pathlib import Path
from statistics import mean

MEASURES = (
    "reward/omniaid",
    "reward/alignment",
    "held_out_realism",
    "judged_real",
    "imagenet_probe",
    "kid_imagenet",
    "kid",
    "color_distance",
    "contrast_distance",
    "spectrum_distance",
    "grid_energy",
    "diversity",
    "diversity_imagenet",
)


def values_of(setting: str) -> list[dict[str, float]]:
    """The measures of each run that ``RUN,RUN,...[:before]`` names."""
    pattern, _, before = setting.partition(":")
    folders = [folder for part in pattern.split(",") for folder in sorted(glob.glob(part))]
    reports = [json.loads((Path(folder) / "summary.json").read_text()) for folder in folders]
    return [report[before or "after"]["values"] for report in reports]


def cell(values: list[float]) -> str:
    """Mean and range; one number where all are equal."""
    if not values:
        return ""
    digits = 4 if max(map(abs, values)) < 0.1 else 3 if max(map(abs, values)) < 1 else 2
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), mean(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="+", help="NAME=RUN,RUN,...")
    names, settings = zip(*(setting.split("=", 1) for setting in parser.parse_args().settings), strict=True)
    columns = [values_of(setting) for setting in settings]
    print("| | " + " | ".join(f"{name} ({len(each)})" for name, each in zip(names, columns, strict=True)) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for measure in MEASURES:
        cells = [cell([run[measure] for run in column if measure in run]) for column in columns]
        if any(cells):
            print(f"| {measure.removeprefix('reward/')} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
