"""Print the price of each option, and draw reward over seconds.

python experiments/2026-11-22-approximate-options/table.py runs/approximate costs.json --picture reward.png

RUNS holds a folder OPTION-SEED per run of realgen.fit, and beside each its OPTION-SEED.csv of ``CpuClock``. The exact
setting is the option called exact; its price in seconds is 1.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from statistics import mean

MEASURES = (
    "reward",
    "reward/omniaid",
    "held_out_realism",
    "kid",
    "color_distance",
    "spectrum_distance",
    "grid_energy",
    "diversity",
    "reward/alignment",
)
UPDATE_ROWS = 6 * 12 * 3
"""Transformer rows with gradient in an iteration: images times decisions."""


def validations(run: Path) -> dict[int, dict[str, float]]:
    """The measures of each validation, by iteration."""
    with (run / "csv" / "version_0" / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["val/reward"]]
    return {int(row["step"]): {name: float(row[f"val/{name}"]) for name in MEASURES} for row in rows}


def rows_per_iteration(path: Path, iterations: int) -> float:
    """Mean of the transformer rows of an iteration."""
    with path.open(newline="", encoding="utf-8") as file:
        return mean(int(row["sampled_and_scored_rows"]) for row in list(csv.DictReader(file))[:iterations])


def at(curve: dict[int, float], iteration: float) -> float:
    """The value at an iteration, between two validations on the line through them."""
    left = max(known for known in curve if known <= iteration)
    right = min(known for known in curve if known >= iteration)
    share = 0.0 if left == right else (iteration - left) / (right - left)
    return curve[left] + share * (curve[right] - curve[left])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of the runs")
    parser.add_argument("costs", type=Path, help="what iteration_cost.py printed")
    parser.add_argument("--picture", type=Path, help="where the curves go")
    options = parser.parse_args()
    costs = json.loads(options.costs.read_text())
    forward, both = costs["mflops_forward"] / 1000, costs["mflops_forward_and_backward"] / 1000
    names = sorted(folder.name for folder in options.runs.iterdir() if folder.is_dir())
    names.sort(key=lambda name: not name.startswith("exact-"))
    measured = {name: validations(options.runs / name) for name in names}
    untrained = measured[names[0]][0]
    last = min(max(points) for points in measured.values())
    rows = {name: rows_per_iteration(options.runs / f"{name}.csv", last) for name in names}
    gflops = {name: (count - UPDATE_ROWS) * forward + UPDATE_ROWS * both for name, count in rows.items()}
    exact = mean(gflops[name] for name in names if name.startswith("exact-"))
    # Options that were not timed change what the steps are, not how a row is computed: they cost what their FLOPs cost.
    relative = {}
    for name in names:
        timed = costs["options"].get(name.rpartition("-")[0])
        relative[name] = timed["relative"] if timed else gflops[name] / exact
    seconds = last * min(relative.values())
    head = f"reward at {seconds:.1f} exact iterations' seconds"
    print(f"| run | rows | GFLOPs | seconds | {head} | {' | '.join(MEASURES)} |")
    print("|" + "---|" * (len(MEASURES) + 5))
    print(f"| untrained | | | | | {' | '.join(f'{untrained[name]:.3f}' for name in MEASURES)} |")
    curves = {}
    for name, points in measured.items():
        curves[name] = {0: untrained["reward"], **{i: point["reward"] for i, point in points.items() if i <= last}}
        cells = [f"{rows[name]:,.0f}", f"{gflops[name]:.0f}", f"{relative[name]:.2f}"]
        cells += [f"{at(curves[name], seconds / relative[name]):.3f}"]
        print(f"| {name} | {' | '.join([*cells, *(f'{points[last][measure]:.3f}' for measure in MEASURES)])} |")
    if options.picture:
        draw(curves, relative, options.picture)


def draw(curves: dict[str, dict[int, float]], relative: dict[str, float], path: Path) -> None:
    """Held-out reward over images, and over seconds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
    colors = {
        option: f"C{index}" for index, option in enumerate(dict.fromkeys(name.rpartition("-")[0] for name in curves))
    }
    for name, curve in curves.items():
        option, _, seed = name.rpartition("-")
        line = {"0": "-", "1": "--"}.get(seed, ":")
        style = {"color": "black" if option == "exact" else colors[option], "linestyle": line}
        iterations = sorted(curve)
        values = [curve[iteration] for iteration in iterations]
        axes[0].plot([72 * iteration for iteration in iterations], values, label=name, **style)
        axes[1].plot([iteration * relative[name] for iteration in iterations], values, **style)
    axes[0].set(xlabel="images drawn in training", ylabel="reward of held-out prompts")
    axes[1].set(xlabel="CPU seconds, in iterations of the exact setting")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
