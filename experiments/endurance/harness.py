"""Everything that is done to runs, in one go, and the exit code."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path

from experiments.endurance import mutations
from experiments.endurance.faults import disks, doubles
from experiments.endurance.kills import Case, kills, undisturbed
from experiments.endurance.recipes import DEFAULT, OTHERS, Recipe
from experiments.endurance.report import show

PARTS = ("kills", "doubles", "disks", "mutations")
ANSWERED = "misspelt names answered by the right one"
LEAST_ANSWERED = 0.98


def main() -> int:
    """Run what was asked for; return 1 if anything was lost or misleading."""
    names = [recipe.name for recipe in (DEFAULT, *OTHERS)]
    parser = argparse.ArgumentParser(prog="python -m experiments.endurance", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--recipes", nargs="+", choices=names, default=names, help="not of the misspelt names")
    parser.add_argument("--kills", type=int, default=20, help="of the default recipe")
    parser.add_argument("--other_kills", type=int, default=5, help="of each other recipe")
    parser.add_argument("--first", type=int, default=0, help="number of the first kill, to repeat one")
    parser.add_argument("--workers", type=int, default=2, help="recipes at once")
    parser.add_argument("--seed", type=int, default=0, help="chooses the moments")
    parser.add_argument("--work", type=Path, default=None, help="folder for the runs, kept; a temporary one otherwise")
    parser.add_argument("--markdown", type=Path, default=None, help="page whose rows are replaced")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="endurance-"))
    try:
        with ThreadPoolExecutor(options.workers) as pool:
            tasks = [partial(recipe_cases, recipe, options, work.resolve()) for recipe in (DEFAULT, *OTHERS)]
            tasks += [misspelt] if "mutations" in options.parts else []
            found = [case for cases in pool.map(told, tasks) for case in cases]
    finally:
        if options.work is None:
            shutil.rmtree(work)
    show(found, options.markdown)
    answers = [not case.faults for case in found if case.kind == ANSWERED]
    few = sum(answers) < LEAST_ANSWERED * len(answers)
    return int(few or any(case.faults for case in found if case.kind != ANSWERED))


def told(task: Callable[[], Iterator[Case]]) -> list[Case]:
    """Return the cases of a task; each is told as it comes, unless it is a name that was misspelt and refused."""
    found = []
    for case in task():
        found.append(case)
        if case.faults or "misspelt" not in case.kind:
            lines = (f"{datetime.now():%H:%M:%S} {'LOST' if case.faults else 'ok  '} {case.what}", *case.faults)
            print("\n       ".join(lines), flush=True)
    return found


def recipe_cases(recipe: Recipe, options: argparse.Namespace, work: Path) -> Iterator[Case]:
    """Yield the outcome of what is done to runs of a recipe."""
    parts = set(options.parts) & ({"kills", "doubles", "disks"} if recipe.whole else {"kills"})
    if recipe.name not in options.recipes or not parts:
        return
    straight = undisturbed(recipe, work)
    if "kills" in parts:
        count = options.kills if recipe is DEFAULT else options.other_kills
        yield from kills(straight, options.first, count, options.seed)
    if "doubles" in parts:
        yield from doubles(straight)
    if "disks" in parts and os.environ["ENDURANCE_MOUNTS"] == "True":
        yield from disks(straight)
    elif "disks" in parts:
        yield Case("disk faults", recipe.name, ["not tried: this machine has no user namespaces to mount in"])


def misspelt() -> Iterator[Case]:
    """Yield for each misspelt name whether it was refused, and whether the right one was named in the answer."""
    for outcome in mutations.count():
        name, said = f"{outcome.recipe} {outcome.mutation.argument}", [f"said: {outcome.message}"]
        yield Case("misspelt names refused", name, [] if outcome.refused else said)
        yield Case(ANSWERED, name, [] if outcome.answered else said)
