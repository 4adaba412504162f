"""Training runs as one page that needs nothing else: curves, what changed, pictures, prompts, config, warnings."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from realgen.benchmark.comparison.runs import CONFIG_FILE, RecordedRun
from realgen.benchmark.report.page import render
from realgen.benchmark.report.run_view import Groups, held_out, mean_interval, prompt_means, sections
from realgen.benchmark.report.tables import Table
from realgen.benchmark.report.thumbnails import Thumbnail, thumbnail
from realgen.failures import describe
from realgen.given_files import parse_json, read_json
from realgen.whole_files import write_whole

PICTURES, WARNINGS, SOURCES = "pictures", "warnings.txt", "config_sources.txt"
"""Folder of the pictures of held-out prompts, with one inside for each validation; files of what a run was
warned of, and of where each of its settings stands, a line each."""
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
    path: Path
    share: int

    @property
    def image(self) -> Thumbnail | None:
        """Made when it is shown: most pictures are not."""
        return thumbnail(self.path, self.share, self.path.stat().st_mtime_ns if self.path.is_file() else 0)


class Frame(NamedTuple):
    """What the slider shows at one stop."""

    name: str
    pictures: list[Picture]


def write_run_report(
    groups: Groups, out: Path, *, title: str, tables: Sequence[Table] = (), settings: Sequence[str] = ()
) -> None:
    """Write the page of one run, or of several by group; it is never half written.

    Whatever comes from the runs' folders is escaped, and the page forbids itself requests and all scripts but its own,
    which moves the slider; without it the pictures stand in rows. ``groups`` are runs by the name of their group; one
    run alone is shown with its validations against each other, and the table of its change before ``tables``. In what
    the groups differ, ``settings``, stands above them.
    """
    logs = [log for group in groups.values() for log in group]
    alone = logs[0] if len(logs) == 1 else None
    frames = list(_frames(alone)) if alone is not None else [_frame(g[0], n, len(groups)) for n, g in groups.items()]
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
        configs=[(log.name, _text(log.folder / CONFIG_FILE), _text(log.folder / SOURCES)) for log in logs],
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, text.encode())


def by_iteration(folder: Path, name: str = "iteration-([0-9]+)") -> dict[int, Path]:
    """Return what a folder holds, ordered by the iteration in its name; a copy with more in its name is left out."""
    found = [(match, path) for path in folder.glob("*") if (match := re.fullmatch(name, path.name))]
    return dict(sorted((int(match[1]), path) for match, path in found))


def _facts(name: str, log: RecordedRun) -> tuple[str, str, str]:
    command = _text(log.folder / CONFIG_FILE).partition("\n")[0].removeprefix("# ")
    done = max((i for numbers in log.numbers.values() for i in numbers), default=0)
    points = log.points
    drawn = f", {points[-1].images:,} images drawn, {points[-1].seconds:,.0f} seconds of training" if points else ""
    return f"{name} {log.name}".strip(), f"iteration {done}{drawn}, seed {log.seed}", command


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _read_lines(path: Path, **kinds: Any) -> Iterator[dict[str, Any]]:
    """Read JSON lines, maybe another's: ValueError by file and line where a value is missing or of another kind."""
    for number, text in enumerate(filter(None, _text(path).split("\n")), start=1):  # a prompt may hold other ends
        try:
            line = parse_json(text)
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
        for name, kind in kinds.items():
            if not isinstance(line, dict) or not isinstance(line.get(name), kind):
                raise ValueError(f"{path}, line {number}: {name} is missing, or of another kind.")
        yield line


def _change(log: RecordedRun) -> Table:
    """Show the first validation against the last one; the interval is of the change, over prompts."""
    names = [*log.names(rewarded=True), *log.names(rewarded=False)]
    measured = {name: {i: value for i, (value, _, _) in held_out(name, log, shaded=False).items()} for name in names}
    iterations = {iteration for values in measured.values() for iteration in values}
    first, last = min(iterations, default=0), max(iterations, default=0)
    points = {point.iteration: point for point in log.points}
    told, rows = _told_intervals(log.folder / "summary.json", first, last), []
    for name, values in measured.items():
        before, after = (prompt_means(points[i], name) if i in points else {} for i in (first, last))
        low, high = told.get(name, (None, None))
        if changes := tuple(after[key] - before[key] for key in sorted(before.keys() & after.keys())):
            low, high = mean_interval(changes)
        cells = [f"{values[i]:.3f}" if i in values else "" for i in (first, last)]
        cells.append(f"{values[last] - values[first]:+.3f}" if all(cells) else "")
        shown = all(cells) and first != last and low is not None and high is not None
        rows.append((name, *cells, f"{low:+.3f} to {high:+.3f}" if shown else ""))
    headings = ("held-out prompts", f"iteration {first}", f"iteration {last}", "change", "95 % interval of the change")
    return Table("Before and after, with the moving average of the weights; rewards first", headings, rows)


def _told_intervals(path: Path, first: int, last: int) -> dict[str, tuple[float | None, float | None]]:
    """Return the intervals of a summary, if it is of these validations: a run may have gone on since."""
    told = read_json(path) if path.is_file() else {}
    try:
        same = [told[end]["iteration"] for end in ("before", "after") if end in told] == [first, last]
        pairs = told["intervals"].items() if same else ()
        return {name: (float(low), float(high)) for name, (low, high) in pairs if low is not None}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no summary of a run: {describe(error)}.") from error


def _frames(log: RecordedRun) -> Iterator[Frame]:
    """Yield all validations, or every second, fourth ... of many: what one page shows is at hand for the next one."""
    folders, step = list(by_iteration(log.folder / PICTURES)), 1
    while len(shown := list(dict.fromkeys([*folders[::step], *folders[-1:]]))) > SHOWN_VALIDATIONS:
        step *= 2
    yield from (_frame(log, "", iteration=iteration) for iteration in shown)


def _frame(log: RecordedRun, name: str, frames: int = 0, iteration: int | None = None) -> Frame:
    """Read the pictures of one validation, by default of the last one; ``frames`` of them, or more, share the page."""
    folders = by_iteration(log.folder / PICTURES)
    iteration = max(folders, default=0) if iteration is None else iteration
    folder = folders.get(iteration, log.folder)
    share = BUDGET // (SHOWN_PROMPTS * max(SHOWN_VALIDATIONS, frames) + 4 * ENDS)  # the same in the next page
    kinds = {"key": str, "prompt": str, "file": str, "text": str | None, "reward": float | int | None}
    pictures = [
        Picture(x["key"], x["prompt"], x.get("text") or "", x.get("reward"), folder / Path(x["file"]).name, share)
        for x in _read_lines(folder / LINES, **kinds)
    ]
    return Frame(f"{name} iteration {iteration}".strip(), pictures)


def _ends(log: RecordedRun, frames: Sequence[Frame]) -> list[tuple[str, list[tuple[str, str, list[Picture]]]]]:
    """Choose the held-out prompts with the highest and the lowest reward at the last validation: before and after."""
    if len(log.points) < 2:
        return []
    before, after = (prompt_means(log.points[place], "reward") for place in (0, -1))
    prompts = {image.key: image.prompt for image in log.points[-1].values.get("reward", {})}
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
    files = list(by_iteration(folder / "rewrites", r"validation-([0-9]+)\.jsonl").items())
    found: dict[str, list[tuple[str, str, float | None]]] = {}
    for iteration, path in dict(files[:1] + files[-1:]).items():
        seen: dict[str, list[dict[str, Any]]] = {}
        for row in _read_lines(path, prompt=str, text=str, reward=float | int | None):
            seen.setdefault(row["prompt"], []).append(row)
        for prompt, rows in list(seen.items())[:SHOWN_PROMPTS]:
            rewards = [row["reward"] for row in rows if row.get("reward") is not None]
            shown = (f"iteration {iteration}", rows[0]["text"], fmean(rewards) if rewards else None)
            found.setdefault(prompt, []).append(shown)
    return list(found.items())
