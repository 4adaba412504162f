"""Training runs as one page that needs nothing else: curves, what changed, pictures, prompts, config, warnings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

from realgen.benchmark.comparison.runs import CONFIG_FILE
from realgen.benchmark.report.page import render
from realgen.benchmark.report.run_view import Groups, RunLog, held_out, prompt_means, sections
from realgen.benchmark.report.tables import Table
from realgen.benchmark.report.thumbnails import Thumbnail, thumbnails
from realgen.functional.bootstrap import bootstrap_mean
from realgen.given_files import parse_json, read_json
from realgen.whole_files import write_whole

PICTURES, WARNINGS = "pictures", "warnings.txt"
"""Folder of the pictures of held-out prompts, with one inside for each validation; file of what a run was warned of."""
LINES = "pictures.jsonl"
"""Beside the pictures of a validation: ``key``, ``prompt``, ``file``, ``reward``, and ``text`` of a rewrite."""
SHOWN_PROMPTS, SHOWN_VALIDATIONS, ENDS = 12, 24, 4
"""Prompts under the slider, its most stops, and how many of the best and the worst prompts are shown."""
BUDGET = 12_000_000
"""Bytes of all pictures in the page."""


class Picture(NamedTuple):
    """A held-out prompt at one validation."""

    key: str
    prompt: str
    text: str
    """Its rewrite; empty where the image model had the prompt itself."""
    reward: float | None
    image: Thumbnail | None


class Frame(NamedTuple):
    """What the slider shows at one stop."""

    name: str
    pictures: list[Picture]


def write_run_report(
    groups: Groups, out: Path, *, title: str, tables: Sequence[Table] = (), settings: Sequence[str] = ()
) -> None:
    """Write the page of one run, or of several by group; it is never half written.

    Whatever comes from the runs' folders is escaped, and the page forbids itself requests and all scripts but its own,
    which moves the slider; without it the pictures stand in rows.

    Args:
        groups: Runs by the name of their group; one run alone is shown with its validations against each other.
        out: The page.
        title: Its heading.
        tables: Shown first; of one run alone that of its change is put before.
        settings: In what the groups differ, shown above the tables.
    """
    logs = [log for group in groups.values() for log in group]
    alone = logs[0] if len(logs) == 1 else None
    frames = list(_frames(alone)) if alone is not None else [_frame(g[0], n) for n, g in groups.items()]
    frames = [frame for frame in frames if frame.pictures]
    text = render(
        "run.html.j2",
        title=title,
        facts=[_facts(name, log) for name, group in groups.items() for log in group],
        settings=settings,
        warnings=list(dict.fromkeys(line for log in logs for line in _text(log.folder / WARNINGS).splitlines())),
        tables=[*([_change(alone)] if alone is not None else []), *tables],
        sections=sections(groups),
        frames=[frame._replace(pictures=frame.pictures[:SHOWN_PROMPTS]) for frame in frames],
        ends=_ends(alone, frames) if alone is not None else [],
        rewrites=_rewrites(alone.folder) if alone is not None else [],
        configs=[(log.run.name, _text(log.folder / CONFIG_FILE)) for log in logs],
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, text.encode())


def picture_folders(folder: Path) -> dict[int, Path]:
    """Return the folders of a run's pictures, by iteration."""
    found = folder.glob(f"{PICTURES}/iteration-[0-9]*")
    return {int(path.name.removeprefix("iteration-")): path for path in sorted(found)}


def _facts(name: str, log: RunLog) -> tuple[str, str, str]:
    command = _text(log.folder / CONFIG_FILE).partition("\n")[0].removeprefix("# ")
    done = max((i for numbers in log.numbers.values() for i in numbers), default=0)
    points = log.run.points
    drawn = f", {points[-1].images:,} images drawn, {points[-1].seconds:,.0f} seconds of training" if points else ""
    return f"{name} {log.run.name}".strip(), f"iteration {done}{drawn}, seed {log.run.seed}", command


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _change(log: RunLog) -> Table:
    """Show the first validation against the last one; the interval is of the change, over prompts."""
    rows, first, last = [], "", ""
    path = log.folder / "summary.json"
    told = read_json(path).get("intervals", {}) if path.is_file() else {}
    for name in [*log.names(rewarded=True), *log.names(rewarded=False)]:
        values = {iteration: value for iteration, (value, _, _) in held_out(name, log).items()}
        first, last = str(min(values)), str(max(values))
        low, high = told.get(name) or (None, None)
        if len(log.run.points) > 1:
            before, after = (prompt_means(log.run.points[place], name) for place in (0, -1))
            changes = [after[key] - before[key] for key in sorted(before.keys() & after.keys())]
            if changes:
                estimate = bootstrap_mean(torch.tensor(changes, dtype=torch.float64))
                low, high = estimate.low, estimate.high
        old, new = values[min(values)], values[max(values)]
        interval = "" if low is None or high is None or first == last else f"{low:+.3f} to {high:+.3f}"
        rows.append((name, f"{old:.3f}", f"{new:.3f}", f"{new - old:+.3f}", interval))
    headings = ("held-out prompts", f"iteration {first}", f"iteration {last}", "change", "95 % interval of the change")
    return Table("Before and after, with the moving average of the weights; rewards first", headings, rows)


def _frames(log: RunLog) -> Iterator[Frame]:
    """Yield some of the validations, evenly spaced, the first and the last among them."""
    folders = list(picture_folders(log.folder))
    stops = min(len(folders), SHOWN_VALIDATIONS)
    for place in range(stops):
        yield _frame(log, "", folders[place * (len(folders) - 1) // max(stops - 1, 1)], stops)


def _frame(log: RunLog, name: str, iteration: int | None = None, frames: int = 4) -> Frame:
    """Read the pictures of one validation, by default of the last one; ``frames`` of them share the page."""
    folders = picture_folders(log.folder)
    iteration = max(folders, default=0) if iteration is None else iteration
    folder = folders.get(iteration, log.folder)
    lines = [parse_json(line) for line in _text(folder / LINES).splitlines()]
    paths = [folder / Path(str(line["file"])).name for line in lines]
    small = thumbnails(paths, budget=BUDGET // max(frames, 1))
    pictures = [
        Picture(str(line["key"]), str(line["prompt"]), str(line.get("text") or ""), line["reward"], small.get(path))
        for line, path in zip(lines, paths, strict=True)
    ]
    return Frame(f"{name} iteration {iteration}".strip(), pictures)


def _ends(log: RunLog, frames: Sequence[Frame]) -> list[tuple[str, list[tuple[str, str, list[Picture]]]]]:
    """Choose the held-out prompts with the highest and the lowest reward at the last validation: before and after."""
    if len(log.run.points) < 2:
        return []
    before, after = (prompt_means(log.run.points[place], "reward") for place in (0, -1))
    prompts = {image.key: image.prompt for image in log.run.points[-1].values.get("reward", {})}
    ranked = sorted(before.keys() & after.keys(), key=lambda key: -after[key])
    number = min(ENDS, len(ranked) // 2)
    pictures = [{picture.key: picture for picture in frame.pictures} for frame in (*frames[:1], *frames[-1:])]

    def shown(key: str) -> tuple[str, str, list[Picture]]:
        change = f"reward {before[key]:.3f} before, {after[key]:.3f} after ({after[key] - before[key]:+.3f})"
        return prompts[key], change, [each[key] for each in pictures if key in each]

    chosen = {"Best": ranked[:number], "Worst": ranked[::-1][:number]}
    return [(f"{name} at the last validation", [shown(key) for key in keys]) for name, keys in chosen.items() if keys]


def _rewrites(folder: Path) -> list[tuple[str, list[tuple[str, str, float | None]]]]:
    """Return prompts with their rewrites at the first validation and the last one: when, text, mean reward."""
    files = sorted(folder.glob("rewrites/validation-*.jsonl"))
    found: dict[str, list[tuple[str, str, float | None]]] = {}
    for path in dict.fromkeys(files[:1] + files[-1:]):
        seen: dict[str, list[dict[str, Any]]] = {}
        for row in (parse_json(line) for line in _text(path).splitlines()):
            seen.setdefault(row["prompt"], []).append(row)
        for prompt, rows in list(seen.items())[:SHOWN_PROMPTS]:
            rewards = [row["reward"] for row in rows if row.get("reward") is not None]
            when = f"iteration {int(path.stem.rpartition('-')[2])}"
            found.setdefault(prompt, []).append((when, rows[0]["text"], fmean(rewards) if rewards else None))
    return list(found.items())
