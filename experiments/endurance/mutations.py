"""Misspell every name of every recipe, one at a time; count what is refused, and what is answered by the right name.

    python -m experiments.endurance.mutations [RECIPE ...]

``count()`` reads the recipes as the commands do, in this process; no run is started. ``table()`` makes rows of its
outcomes for the table of ``make endurance``: kind, tried, refused, answered by the right name.
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from io import StringIO
from pathlib import Path

from realgen.cli import ConfigError
from realgen.cli.components import visit
from realgen.cli.config_reader import read_arguments
from realgen.cli.schema import ConfigSlot
from realgen.cli.tree import Node

CONFIGS = Path("configs")
HEADINGS = ("misspelt", "tried", "refused", "answered by the right name")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SCALARS = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Mutation:
    """One misspelt name."""

    kind: str
    """What is misspelt, and where."""
    wrong: str
    """The misspelt name."""
    right: str
    """The name that was meant."""
    argument: str
    """What stands behind the recipe."""


@dataclass(frozen=True)
class Outcome:
    """What a command said."""

    recipe: str
    mutation: Mutation
    message: str | None
    """None if the name was accepted."""

    @property
    def refused(self) -> bool:
        """Return whether the command ended because of this name, and not of something else."""
        return self.message is not None and self.mutation.wrong in self.message

    @property
    def answered(self) -> bool:
        """Return whether it asked for the right name."""
        return self.refused and bool(
            re.search(rf"id you mean \S*\b{re.escape(self.mutation.right)}\b", self.message or "")
        )


def misspell(name: str, taken: Iterable[str], dice: random.Random) -> Iterator[str]:
    """Yield a name with a letter dropped, doubled, swapped with its neighbour, and replaced, where it is a new one."""
    places = [place for place, letter in enumerate(name) if letter.isalnum()]
    tries = []
    place = dice.choice(places)
    tries.append(name[:place] + name[place + 1 :])
    place = dice.choice(places)
    tries.append(name[:place] + name[place] + name[place:])
    place = dice.choice(range(max(1, len(name) - 1)))
    tries.append(name[:place] + name[place : place + 2][::-1] + name[place + 2 :])
    place = dice.choice(places)
    tries.append(name[:place] + dice.choice(LETTERS) + name[place + 1 :])
    yield from (
        wrong for wrong in dict.fromkeys(tries) if re.match(r"[A-Za-z_]", wrong) and wrong not in {name, *taken}
    )


def mutations(tree: Node, root: ConfigSlot, dice: random.Random) -> Iterator[Mutation]:
    """Yield the mutations of a recipe.

    Args:
        tree: The recipe, part files expanded.
        root: What may stand at its top.
        dice: Chooses the letters.
    """
    places = {key: (node, slot) for key, node, slot in visit(tree, root) if key}
    for key, (node, slot) in places.items():
        above, _, name = key.rpartition(".")
        if "[" in name or "[" in above:
            continue  # elements of lists have no names
        taken = {other.rpartition(".")[2] for other in places if other.rpartition(".")[0] == above}
        inner = next((other for other in places if other.startswith(f"{key}.")), None)
        for wrong in misspell(name, taken, dice):
            full = f"{above}.{wrong}".removeprefix(".")
            if isinstance(node.value, SCALARS) and not node.is_interpolation:
                yield Mutation("key=value", wrong, name, f"--{full}={'null' if node.value is None else node.value}")
            yield Mutation("key=null", wrong, name, f"--{full}=null")
            if inner is not None:
                yield Mutation("outer key", wrong, name, f"--{full}{inner.removeprefix(key)}=1")
        if slot.base is not None and node.is_mapping and isinstance(chosen := node.value["class_path"].value, str):
            yield from _classes(key, chosen, dice)
        if node.is_interpolation:
            yield from _interpolations(key, node.value, dice)
        choices = re.findall(r"'(\w+)'", str(slot.hint)) if "Literal" in str(slot.hint) else []
        for word in choices:
            for wrong in misspell(word, choices, dice):
                yield Mutation("choice", wrong, word, f"--{key}={wrong}")


def _classes(key: str, chosen: str, dice: random.Random) -> Iterator[Mutation]:
    module, _, name = chosen.rpartition(".")
    for wrong in misspell(name, dir(import_module(module)), dice):  # torch.optim has an Adam beside AdamW
        yield Mutation("class", wrong, name, f"--{key}={module}.{wrong}")
        yield Mutation("class", wrong, name, f'--{key}={{"class_path": "{module}.{wrong}"}}')
    parts = module.split(".")
    for place, part in enumerate(parts):
        for wrong in misspell(part, (), dice):
            yield Mutation(
                "module", wrong, part, f"--{key}={'.'.join([*parts[:place], wrong, *parts[place + 1 :], name])}"
            )


def _interpolations(key: str, text: str, dice: random.Random) -> Iterator[Mutation]:
    parts = text.removeprefix("${").removesuffix("}").split(".")
    for place, part in enumerate(parts):
        for wrong in misspell(part, (), dice):
            yield Mutation(
                "interpolation", wrong, part, f"--{key}=${{{'.'.join([*parts[:place], wrong, *parts[place + 1 :]])}}}"
            )


def part_files(tree: Node, root: ConfigSlot, dice: random.Random) -> Iterator[Mutation]:
    """Yield misspelt names of the shipped part files, for the components of a recipe that take one."""
    for key, node, slot in visit(tree, root):
        if key and "[" not in key and slot.base is not None and node.is_mapping:
            origin = Path(node.value["class_path"].origin.rpartition(":")[0])
            if origin.parent.name and origin.resolve().parent.parent == CONFIGS.resolve():
                file = CONFIGS / origin.resolve().relative_to(CONFIGS.resolve())
                taken = [other.stem for other in file.parent.iterdir()]
                for wrong in misspell(file.stem, taken, dice):
                    yield Mutation("part file", wrong, file.stem, f"--{key}={file.with_stem(wrong)}")
                for wrong in misspell(file.parent.name, (), dice):
                    yield Mutation("part folder", wrong, file.parent.name, f"--{key}={CONFIGS / wrong / file.name}")


def count(recipes: Sequence[str] = (), *, seed: int = 0) -> list[Outcome]:
    """Try all mutations of some recipes.

    Args:
        recipes: Stems of files in ``configs/``; all of them where none is given.
        seed: Of the misspellings.
    """
    outcomes = []
    for file in sorted(CONFIGS.glob("*.yaml")):
        if recipes and file.stem not in recipes:
            continue
        start = [f"--config={file}"]
        root, ask = _realbench() if file.stem.startswith("realbench") else _fit()
        tree, dice = read_arguments(start, root), random.Random(f"{seed}{file.stem}")
        for mutation in [*mutations(tree, root, dice), *part_files(tree, root, dice), *_options(root, dice)]:
            outcomes.append(Outcome(file.stem, mutation, _message(partial(ask, [*start, mutation.argument]))))
    return outcomes


def _options(root: ConfigSlot, dice: random.Random) -> Iterator[Mutation]:
    for name in ("print_config", *(root.arguments or {})):
        for wrong in misspell(name, (), dice):
            yield Mutation("option", wrong, name, f"--{wrong}" + ("" if name == "print_config" else "=1"))


def _message(ask: Callable[[], object]) -> str | None:
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            ask()
    except ConfigError as error:
        return str(error)
    return None


def _fit() -> tuple[ConfigSlot, Callable[[list[str]], object]]:
    """Return what may stand in a training recipe, and what reads it, and makes what it names where it is accepted."""
    from lightning.pytorch import LightningDataModule

    from realgen.cli.realgen_cli import RealGenCLI
    from realgen.modules.base import TrainableModule

    class Reading(RealGenCLI):
        """Makes nothing."""

        def before_instantiate_classes(self) -> None: ...

        def instantiate_classes(self) -> None: ...

    reading = Reading(TrainableModule, LightningDataModule, argv=["--config=configs/diffusion.yaml"])

    def ask(argv: list[str]) -> None:
        with suppress(SystemExit), tempfile.TemporaryDirectory() as scratch:
            reading.parse_arguments(reading.parser, argv)
            RealGenCLI(TrainableModule, LightningDataModule, argv=[*argv, f"--output_dir={scratch}"])

    return reading.root, ask


def _realbench() -> tuple[ConfigSlot, Callable[[list[str]], object]]:
    """Return the same for the recipes of ``realgen.realbench``."""
    from realgen.benchmark.realbench_config import realbench_arguments
    from realgen.cli.config_reader import ConfigReader

    reader = ConfigReader(realbench_arguments(), "")

    def ask(argv: list[str]) -> None:
        with suppress(SystemExit):
            reader.make(reader.read(argv))

    return reader.root, ask


def table(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Return a row for each kind of mutation, and one for all, under ``HEADINGS``."""
    kinds = dict.fromkeys(outcome.mutation.kind for outcome in outcomes)
    rows = []
    for kind in [*kinds, None]:
        chosen = [outcome for outcome in outcomes if kind in (None, outcome.mutation.kind)]
        shares = [
            f"{sum(each) / len(each):.2%}" for each in ([o.refused for o in chosen], [o.answered for o in chosen])
        ]
        rows.append([kind or "all", str(len(chosen)), *shares])
    return rows


if __name__ == "__main__":
    found = count(sys.argv[1:])
    for outcome in found:
        if not outcome.answered:
            sys.stdout.write(f"{outcome.recipe} {outcome.mutation.argument}: {outcome.message}\n")
    for row in (HEADINGS, *table(found)):
        sys.stdout.write(f"{row[0]:<16}{row[1]:>8}{row[2]:>12}{row[3]:>30}\n")
