"""Runs of one config in a group, whatever their seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from realgen.benchmark.comparison.runs import RecordedRun


@dataclass(frozen=True)
class Group:
    """Runs of the same config but for the seed."""

    name: str
    """A, B, C ... in the order in which they were named."""
    runs: tuple[RecordedRun, ...]
    settings: Mapping[str, object]
    """Those in which the groups differ; without keys that this group lacks."""


def group_runs(runs: Sequence[RecordedRun]) -> list[Group]:
    """Put runs of the same config but for the seed together, in order; ValueError if a group has a seed twice."""
    found: dict[str, list[RecordedRun]] = {}
    first: list[Mapping[str, Any]] = []
    for run, settings in zip(runs, _settings_that_count(runs), strict=True):
        members = found.setdefault(_identity(settings), [])
        first += [] if members else [settings]
        members.append(run)
    for members in found.values():
        for index, run in enumerate(members):
            twin = next((other for other in members[:index] if other.seed == run.seed), None)
            if twin is not None:
                seed = "no seed that differs" if run.seed is None else f"seed {run.seed}"
                raise ValueError(f"{twin.name} and {run.name} have the same config and {seed}; give one of the two.")
    keys = sorted({key for settings in first for key in settings})
    missing = object()
    differ = [key for key in keys if len({repr(settings.get(key, missing)) for settings in first}) > 1]
    return [
        Group(_letters(number), tuple(members), {key: settings[key] for key in differ if key in settings})
        for number, (members, settings) in enumerate(zip(found.values(), first, strict=True))
    ]


def _settings_that_count(runs: Sequence[RecordedRun]) -> list[dict[str, Any]]:
    """Return the settings of each run, without the seeds of parts that follow its own.

    Such a seed is the run's own in every run that is alike in all else. Of one run that may be chance, so there it must
    be the own one in all runs.
    """
    parts = sorted({key for run in runs for key in run.settings if key.rpartition(".")[2] == "seed"})
    alike: dict[str, list[RecordedRun]] = {}
    for run in runs:
        alike.setdefault(_identity(run.settings, parts), []).append(run)

    def follows(key: str, among: Sequence[RecordedRun]) -> bool:
        return all(run.settings.get(key) == run.seed for run in among)

    found = []
    for run in runs:
        twins = alike[_identity(run.settings, parts)]
        several = len({twin.seed for twin in twins}) > 1
        following = [key for key in parts if follows(key, twins) and (several or follows(key, runs))]
        found.append({key: value for key, value in run.settings.items() if key not in following})
    return found


def _identity(settings: Mapping[str, Any], without: Sequence[str] = ()) -> str:
    """Return a text that is equal for equal settings."""
    return repr(sorted((key, value) for key, value in settings.items() if key not in without))


def _letters(number: int) -> str:
    """Return A, B, ... Z, AA, AB ..."""
    rest, last = divmod(number, 26)
    return (_letters(rest - 1) if rest else "") + ascii_uppercase[last]
