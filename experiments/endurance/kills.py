"""Runs that are killed, and gone on with by the same command until they end."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from experiments.endurance.comparing import differences
from experiments.endurance.moments import Moment, choose
from experiments.endurance.processes import Ended, Process
from experiments.endurance.recipes import Recipe


@dataclass(frozen=True)
class Case:
    """One thing that was done to a run, and what came of it."""

    kind: str
    """Row of the table."""
    what: str
    """What was done."""
    faults: list[str] = field(default_factory=list)
    """What was wrong in the end; empty: nothing."""


@dataclass(frozen=True)
class Straight:
    """A recipe's undisturbed run."""

    recipe: Recipe
    place: Path
    """Where every run of the recipe lives while it runs, so that paths do not differ."""
    folder: Path
    """Where the undisturbed one lies."""
    trace: list[float]
    """Seconds of each change of its files, and of its end."""

    def start(self, *more: str, moment: Moment | None = None) -> Process:
        """Start the recipe's command at its place, with more arguments."""
        return Process(self.recipe.command(self.place, *more), self.place, moment=moment)

    def faults_of(self, ended: Ended, folder: Path | None = None) -> list[str]:
        """Return what is wrong with the end of a run, and where what it left differs from an undisturbed one."""
        faults = [] if ended.code == 0 else [f"ended with {ended.code}: {ended.words}"]
        faults += ["a traceback was printed"] if "Traceback" in ended.output else []
        return faults + differences(folder or self.folder, self.place)

    @property
    def longer(self) -> Path:
        """Return where the undisturbed run lies after it has gone on."""
        return self.folder.with_name("longer")


def undisturbed(recipe: Recipe, work: Path) -> Straight:
    """Run a recipe without disturbance.

    Raises:
        RuntimeError: If it fails.
    """
    place, folder, trace = (work / recipe.name / name for name in ("run", "straight", "trace.json"))
    shutil.rmtree(place.parent, ignore_errors=True)
    place.parent.mkdir(parents=True)
    ended = Process(recipe.command(place), place, trace=trace).finish()
    if ended.code != 0:
        raise RuntimeError(f"{recipe.name} fails without disturbance:\n{ended.output}")
    shutil.copytree(place, folder)
    straight = Straight(recipe, place, folder, json.loads(trace.read_text()))
    if recipe.longer:
        straight.start(*recipe.longer).finish()
    place.rename(straight.longer)
    return straight


def kills(straight: Straight, first: int, count: int, seed: int) -> Iterator[Case]:
    """Kill runs at random moments, every fourth run twice.

    Args:
        straight: The undisturbed run.
        first: Number of the first one.
        count: How many.
        seed: Chooses the moments, together with the recipe's name and the number of the run.
    """
    for number in range(first, first + count):
        generator = random.Random(f"{seed} {straight.recipe.name} {number}")
        moments = [choose(straight.trace, generator) for _ in range(2 if number % 4 == 3 else 1)]
        what = f"{straight.recipe.name} {number}: {', then '.join(map(str, moments))}"
        yield Case(f"killed: {straight.recipe.name}", what, killed(straight, moments))


def killed(straight: Straight, moments: list[Moment]) -> list[str]:
    """Kill one run at each moment of its starts; return what is wrong in the end."""
    shutil.rmtree(straight.place, ignore_errors=True)
    faults = []
    for moment in moments:
        ended = straight.start(moment=moment).finish()
        if ended.code not in {0, -moment.number, 128 + moment.number}:
            faults.append(f"a killed start ended with {ended.code}: {ended.words}")
    faults += straight.faults_of(straight.start().finish())
    if straight.recipe.longer:
        ended = straight.start(*straight.recipe.longer).finish()
        faults += [f"gone on with: {fault}" for fault in straight.faults_of(ended, straight.longer)]
    return faults
