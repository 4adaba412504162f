"""Which of several runs is better, said honestly: the same prompts, the same price, all seeds, and how sure it is."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import fmean
from string import ascii_uppercase
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.benchmark.comparison.runs import ImageKey, RecordedRun, ValidationPoint
from realgen.functional.bootstrap import percentile_limits, resampled_means
from realgen.functional.estimate import Estimate

Price = Literal["images", "seconds"]


@dataclass(frozen=True)
class Group:
    """Runs of the same config but for the seed."""

    name: str
    """A, B, C ... in the order in which they were named."""
    runs: tuple[RecordedRun, ...]
    settings: Mapping[str, object]
    """Those in which the groups differ; without keys that this group lacks."""


@dataclass(frozen=True)
class PromptMetric:
    """One metric of all groups."""

    name: str
    values: tuple[Estimate, ...]
    """One per group: mean over prompts and seeds."""
    seeds: tuple[tuple[float, ...], ...]
    """The mean of each run, per group."""
    differences: tuple[Estimate, ...]
    """Each group but the first, minus the first, paired by prompt."""


@dataclass(frozen=True)
class CorpusMetric:
    """A metric of all images together: it has no value per prompt, so no interval over prompts."""

    name: str
    seeds: tuple[tuple[float, ...], ...]
    """One value per run, per group."""
    higher_is_better: bool | None
    """None where it is not known."""


@dataclass(frozen=True)
class Section:
    """All metrics at one price."""

    price: Price | None
    """What is equal; None for a benchmark, which trains nothing."""
    at: float
    """Images or seconds of training, the most that all runs reached."""
    iterations: tuple[tuple[float, ...], ...]
    """Where each run stood then; between two validations both are interpolated."""
    metrics: tuple[PromptMetric, ...]
    corpus_metrics: tuple[CorpusMetric, ...]
    interpolated: bool
    """Whether a run stood between two validations."""


@dataclass(frozen=True)
class Comparison:
    """What can be said of the groups."""

    groups: tuple[Group, ...]
    sections: tuple[Section, ...]
    prompts: int
    """Of which every run has images."""
    left_out: int
    """Prompts that only some of the runs have."""
    lacking: tuple[str, ...]
    """Names of the runs that lack some of those."""
    confidence: float


def compare_runs(
    runs: Sequence[RecordedRun], *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Comparison:
    """Compare groups of training runs, or of models of benchmark runs, on the prompts that all of them have.

    There is one section at equal images and one at equal seconds; of benchmark runs a single one. Training runs of one
    group, or a single one, are compared with themselves: the last validation against the first. ``resamples`` (>= 1),
    ``confidence`` (in (0, 1)) and ``seed`` are those of the bootstrap.

    Raises:
        ValueError: If the runs are of two kinds, models fewer than two groups, a group has a seed twice, they have no
            prompt or metric in common, or none was validated after training had begun.
    """
    kinds = {run.kind for run in runs}
    if len(kinds) > 1:
        raise ValueError("training runs and benchmark runs cannot be compared with each other; give one kind.")
    groups = group_runs(runs)
    if len(groups) < 2:
        runs, kinds = [*(_moment(run, 0) for run in runs), *(_moment(run, -1) for run in runs)], {"validation"}
        groups = group_runs(runs)
    images = [{key for point in run.points for each in point.values.values() for key in each} for run in runs]
    everywhere, somewhere = set.intersection(*images), set.union(*images)
    if not everywhere:
        shared = [sum(len(mine & other) for other in images) - len(mine) for mine in images]
        odd = runs[::-1][shared[::-1].index(min(shared))]  # the last of those that share least
        raise ValueError(
            f"the runs have no image of the same prompt, sample and noise in common; {odd.name} differs most."
        )
    bootstrap = {"resamples": resamples, "confidence": confidence, "seed": seed}
    sections = []
    prices: list[Price | None] = ["images", "seconds"] if kinds == {"run"} else [None]
    for price in prices:
        at = _common_price(runs, price)
        if price != "seconds" or at > 0:  # a run may not have been timed
            sections.append(_section(groups, everywhere, price, at, bootstrap))
    prompts = {(image.key, image.prompt) for image in everywhere}
    left_out = len({(image.key, image.prompt) for image in somewhere} - prompts)
    lacking = tuple(run.name for run, mine in zip(runs, images, strict=True) if somewhere - mine)
    return Comparison(tuple(groups), tuple(sections), len(prompts), left_out, lacking, confidence)


def _moment(run: RecordedRun, place: int) -> RecordedRun:
    """Return the first validation of a run, or the last one, as if it were a run of its own."""
    if run.kind == "benchmark":
        raise ValueError(f"{run.name} is alone; give another run to compare it with.")
    if len(run.points) < 2:
        raise ValueError(f"{run.name} was not validated after training had begun; there is nothing to compare.")
    point, settings = run.points[place], {**run.settings, "validation": "last" if place else "first"}
    name = f"{run.name}, iteration {point.iteration}"
    return replace(run, name=name, kind="validation", points=(point,), settings=settings)


def differences_of_groups(
    values: Float[Tensor, "prompts runs"],
    sizes: Sequence[int],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[list[Estimate], list[Estimate]]:
    """Compute means of groups of runs, and how much more each has than the first, with intervals.

    Each resample draws prompts with replacement, the same for all runs, and of each group of S > 1 seeds S - 1 with
    replacement, which gives the mean over seeds its right variance however few they are (Rao and Wu 1988). A group of
    one run is taken as it is: its interval says nothing of other seeds. One prompt gives no interval.

    ``values`` [P, runs] are finite, a row per prompt, the runs of a group, of which there are ``sizes``, side by side.
    Returns the means, one per group, and the differences, one per group but the first.
    """
    drawn = resampled_means(values, resamples=resamples, seed=seed)  # [R, runs]
    generator = torch.Generator().manual_seed(seed + 1)  # not the stream that drew the prompts
    columns = []
    for part in drawn.split(list(sizes), dim=1):
        size = part.shape[1]
        chosen = torch.randint(size, (resamples, max(1, size - 1)), generator=generator)
        columns.append(part.gather(1, chosen).mean(1))
    means = torch.stack(columns, 1)  # [R, groups]
    found = torch.stack([part.mean() for part in values.double().split(list(sizes), dim=1)])
    return (
        _intervals(found, means, confidence, len(values)),
        _intervals(found[1:] - found[0], means[:, 1:] - means[:, :1], confidence, len(values)),
    )


def _intervals(
    found: Float[Tensor, " columns"], drawn: Float[Tensor, "resamples columns"], confidence: float, number: int
) -> list[Estimate]:
    limits = zip(found.tolist(), *(limit.tolist() for limit in percentile_limits(drawn, confidence)), strict=True)
    known = number > 1  # one prompt says nothing of how prompts differ
    return [Estimate(value, low if known else None, high if known else None, number) for value, low, high in limits]


def _place(run: RecordedRun, price: Price | None, at: float) -> ValidationPoint:
    """Return where a run stands at a price: a validation, or one between two, of what both have measured."""
    if price is None:
        return run.points[0]
    paid = [getattr(point, price) for point in run.points]
    index = max(number for number, each in enumerate(paid) if each <= at)
    before, after = run.points[index], run.points[min(index + 1, len(paid) - 1)]
    if paid[index] == at:
        return before
    share = (at - paid[index]) / (paid[index + 1] - paid[index])

    def between(one: Mapping[Any, float], other: Mapping[Any, float]) -> dict[Any, float]:
        return {key: value + share * (other[key] - value) for key, value in one.items() if key in other}

    names = [name for name in before.values if name in after.values]
    values = {name: between(before.values[name], after.values[name]) for name in names}
    iteration = before.iteration + share * (after.iteration - before.iteration)
    return replace(before, iteration=iteration, values=values, corpus=between(before.corpus, after.corpus))


def _prompt_means(values: Mapping[ImageKey, float], images: Set[ImageKey]) -> dict[tuple[str, str], float]:
    """Average the images of each prompt, of those among ``images``."""
    found: dict[tuple[str, str], list[float]] = {}
    for image in images & values.keys():
        found.setdefault((image.key, image.prompt), []).append(values[image])
    return {prompt: fmean(each) for prompt, each in found.items()}


def _common_price(runs: Sequence[RecordedRun], price: Price | None) -> float:
    """Return the most that all runs have paid at a validation; ValueError if one was first validated later."""
    if price is None:
        return 0.0
    cheapest = min(runs, key=lambda run: getattr(run.points[-1], price))
    at = float(getattr(cheapest.points[-1], price))
    if at == 0 and price == "images":
        raise ValueError(f"{cheapest.name} was not validated after training had begun; there is nothing to compare.")
    late = next((run for run in runs if getattr(run.points[0], price) > at), None)
    if late is not None:
        raise ValueError(
            f"{late.name} was first validated after {getattr(late.points[0], price):,.0f} {price}, when "
            f"{cheapest.name} had ended, after {at:,.0f}. Validate before the first iteration (baseline: true)."
        )
    return at


def _section(
    groups: Sequence[Group], images: Set[ImageKey], price: Price | None, at: float, bootstrap: Mapping[str, Any]
) -> Section:
    sizes = [len(group.runs) for group in groups]
    runs = [run for group in groups for run in group.runs]
    places = [_place(run, price, at) for run in runs]
    metrics = []
    for name in _common([place.values for place in places]):
        columns = [_prompt_means(place.values[name], images) for place in places]
        prompts = sorted(set(columns[0]).intersection(*columns[1:]))
        if prompts:
            values = torch.tensor([[column[prompt] for column in columns] for prompt in prompts], dtype=torch.float64)
            means, differences = differences_of_groups(values, sizes, **bootstrap)
            metrics.append(PromptMetric(name, tuple(means), _split(values.mean(0).tolist(), sizes), tuple(differences)))
    if not metrics:
        raise ValueError("the runs have no metric in common on the prompts that they have in common.")
    whole = []
    for name in _common([place.corpus for place in places]):
        said = {run.higher_is_better.get(name) for run in runs}
        direction = said.pop() if len(said) == 1 else None  # the runs may not know, or not agree
        whole.append(CorpusMetric(name, _split([place.corpus[name] for place in places], sizes), direction))
    iterations = _split([float(place.iteration) for place in places], sizes)
    between = any(place not in run.points for place, run in zip(places, runs, strict=True))
    return Section(price, at, iterations, tuple(metrics), tuple(whole), between)


def _common(mappings: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the names that all have, in the order of the first."""
    return [name for name in mappings[0] if all(name in each for each in mappings[1:])]


def _split(values: Sequence[float], sizes: Sequence[int]) -> tuple[tuple[float, ...], ...]:
    ends = list(accumulate(sizes))
    return tuple(tuple(values[end - size : end]) for end, size in zip(ends, sizes, strict=True))


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
