from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from realgen.benchmark.comparison.comparison import Comparison, compare_runs, differences_of_groups, group_runs
from realgen.benchmark.comparison.runs import RecordedRun, read_runs
from realgen.benchmark.results import ImageRow, ModelResults, Results, write_results
from tests.helpers.run_folders import write_run


def read(*folders: Path) -> list[RecordedRun]:
    return [run for folder in folders for run in read_runs(folder)]


def compared(*folders: Path, **settings: Any) -> Comparison:
    return compare_runs(read(*folders), **settings)


def test_runs_that_differ_in_the_seed_alone_are_one_group(tmp_path: Path) -> None:
    rows = {0: {"reward": [0.0] * 4}}
    folders = [
        write_run(tmp_path / f"{lr}-{seed}", rows, lr=lr, seed=seed, trainer={"max_epochs": 6})
        for seed in (0, 1)
        for lr in (1e-3, 2e-3)
    ]
    groups = group_runs(read(*folders))
    assert [(group.name, [run.seed for run in group.runs]) for group in groups] == [("A", [0, 1]), ("B", [0, 1])]
    assert [group.settings for group in groups] == [{"model.optimizer.lr": 1e-3}, {"model.optimizer.lr": 2e-3}]


@pytest.mark.parametrize(
    ("seeds", "groups"),
    [
        ([(0, 0), (1, 1)], ["01"]),  # follows the run's
        ([(0, 7), (1, 7)], ["01"]),  # always the same
        ([(0, 0), (1, 0), (2, 0)], ["012"]),  # always the same, by chance once the run's own
        ([(0, 0), (0, 1)], ["0", "0"]),  # another setting, not a seed twice
        ([(0, 0), (1, 0), (0, 7), (1, 7)], ["01", "01"]),
    ],
)
def test_the_seed_of_a_part_is_a_setting_unless_it_follows(
    seeds: list[tuple[int, int]], groups: list[str], tmp_path: Path
) -> None:
    rows = {0: {"reward": [0.0] * 4}}
    folders = [write_run(tmp_path / f"{a}-{b}", rows, seed=a, data={"init_args": {"seed": b}}) for a, b in seeds]
    found = group_runs(read(*folders))
    assert ["".join(str(run.seed) for run in group.runs) for group in found] == groups
    shown = [dict(group.settings) for group in found]
    if len(groups) == 1:
        assert shown == [{}]
    else:
        assert [settings["data.seed"] for settings in shown] == sorted({part for _, part in seeds})


def test_seeds_that_follow_are_no_difference_between_single_runs(tmp_path: Path) -> None:
    rows = {0: {"reward": [0.0] * 4}}
    folders = [write_run(tmp_path / str(seed), rows, seed=seed, lr=lr) for seed, lr in ((0, 1e-3), (1, 2e-3))]
    assert [dict(group.settings) for group in group_runs(read(*folders))] == [
        {"model.optimizer.lr": 1e-3}, {"model.optimizer.lr": 2e-3},
    ]  # fmt: skip


def test_one_prompt_gives_no_interval(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / str(level), {i: {"reward": [level * i]} for i in (0, 1)}, lr=level, prompts=("a cat",))
        for level in (0.1, 0.2)
    ]
    (metric,) = compared(*folders).sections[0].metrics
    assert [(value.value, value.low, value.high) for value in metric.values] == [(0.1, None, None), (0.2, None, None)]
    assert (metric.differences[0].low, metric.differences[0].high) == (None, None)
    assert metric.differences[0].value == pytest.approx(0.1)


def test_a_seed_twice_is_one_witness_and_refused(tmp_path: Path) -> None:
    rows = {0: {"reward": [0.0] * 4}}
    first, second = (write_run(tmp_path / name, rows) for name in ("first", "second"))
    with pytest.raises(ValueError, match=r"first and .*second have the same config and seed 0"):
        compared(first, second)


def test_equal_images_and_equal_seconds_are_not_the_same_place(tmp_path: Path) -> None:
    slow = write_run(
        tmp_path / "slow", {i: {"reward": [i / 100] * 4} for i in (0, 10, 20)}, images=100, seconds=10,
        whole={i: {"kid": 4.0 - i / 10} for i in (0, 10, 20)},
    )  # fmt: skip
    fast = write_run(
        tmp_path / "fast", {i: {"reward": [i / 100] * 4} for i in (0, 30)}, images=50, seconds=4, lr=2e-3,
        whole={i: {"kid": 4.0 - i / 10} for i in (0, 30)},
    )  # fmt: skip
    images, seconds = compared(slow, fast).sections
    # The fast one ends at 1500 images, where the slow one is at iteration 15; and at 120 s, where it is at 12.
    assert (images.price, images.at, images.iterations) == ("images", 1500, ((15.0,), (30.0,)))
    assert (seconds.price, seconds.at, seconds.iterations) == ("seconds", 120, ((12.0,), (30.0,)))
    for section, slow_reward in ((images, 0.15), (seconds, 0.12)):
        (reward,) = section.metrics
        assert [value.value for value in reward.values] == pytest.approx([slow_reward, 0.3])
        assert reward.differences[0].value == pytest.approx(0.3 - slow_reward)
        assert section.corpus_metrics[0].name == "kid"
        assert section.corpus_metrics[0].seeds == (pytest.approx((4 - 10 * slow_reward,)), pytest.approx((1.0,)))


def test_only_what_all_have_is_compared(tmp_path: Path) -> None:
    first = write_run(
        tmp_path / "a", {0: {"reward": [0.0] * 4, "x": [0.0] * 4}, 1: {"reward": [0.1, 0.2, 0.3, None], "x": [0.0] * 4}}
    )
    second = write_run(
        tmp_path / "b",
        {0: {"reward": [0.0] * 4}, 1: {"reward": [0.5, 9.0, 0.9, 0.7]}},
        prompts=("a cat", "ANOTHER", "the sea", "a red fox"),  # the same key with another text is another prompt
        lr=1.0,
    )
    found = compared(first, second)
    assert (found.prompts, found.left_out) == (3, 2)
    (metric,) = found.sections[0].metrics
    assert metric.name == "reward"
    assert metric.differences[0].count == 2  # the red fox could not be scored
    assert metric.differences[0].value == pytest.approx((0.5 - 0.1 + 0.9 - 0.3) / 2)


def test_one_seed_gives_the_paired_bootstrap_of_prompts() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=60)
    second = first + rng.normal(0.3, 0.5, size=60)
    _, (found,) = differences_of_groups(torch.tensor(np.stack([first, second], 1)), [1, 1], resamples=20_000)
    limits = stats.bootstrap(
        (second - first,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert found.value == pytest.approx((second - first).mean())
    assert (found.low, found.high) == pytest.approx((limits.low, limits.high), abs=0.01)


@pytest.mark.parametrize("seeds", [2, 3, 6])
def test_the_spread_of_the_seeds_is_in_the_interval(seeds: int) -> None:
    """Where all prompts agree: the quantiles of all S^(S - 1) equally likely means, whose spread is s / sqrt(S)."""
    values = np.random.default_rng(seeds).normal(size=seeds)
    means = np.mean(list(product(values, repeat=seeds - 1)), axis=1)
    assert means.std() == pytest.approx(values.std(ddof=1) / seeds**0.5)
    together = torch.cat([torch.zeros(50, 1, dtype=torch.float64), torch.tensor(values).expand(50, seeds)], 1)
    _, (found,) = differences_of_groups(together, [1, seeds], resamples=40_000, confidence=0.4)
    assert found.value == pytest.approx(values.mean())
    limits = np.quantile(means, [0.3, 0.7], method="inverted_cdf")
    assert (found.low, found.high) == pytest.approx(tuple(limits), abs=0.02)


def test_intervals_cover_as_often_as_they_say() -> None:
    """Prompts and seeds both vary: of 200 made-up experiments without a difference, about one in twenty finds one."""
    generator = np.random.default_rng(0)
    missed = 0
    for trial in range(200):
        seeds = generator.normal(0, 0.1, size=8)
        values = generator.normal(0, 1, size=(100, 1)) + seeds + generator.normal(0, 0.3, size=(100, 8))
        _, (found,) = differences_of_groups(torch.tensor(values), [4, 4], resamples=400, seed=trial)
        missed += not found.low <= 0 <= found.high
    assert 4 <= missed <= 32  # 2 to 16 %: four seeds are few


def test_models_of_benchmark_runs_are_paired_by_prompt(tmp_path: Path) -> None:
    rows = tuple(
        ImageRow(f"{number}", model, "", f"prompt {number}", "", {"omniaid": base + 0.1 * number})
        for model, base in (("base", 0.1), ("tuned", 0.3))
        for number in range(5)
    )
    models = tuple(ModelResults(name, {}) for name in ("base", "tuned"))
    write_results(Results(models, rows=rows, settings={"config": {}, "seed": 0}), tmp_path)
    found = compare_runs(read_runs(tmp_path))
    (section,) = found.sections
    assert section.price is None
    difference = section.metrics[0].differences[0]
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.2, 0.2, 0.2))
    assert [dict(group.settings) for group in found.groups] == [{"model": "base"}, {"model": "tuned"}]


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    rows = {0: {"reward": [0.0] * 4}, 5: {"reward": [0.0] * 4}}
    run = write_run(tmp_path / "run", rows)
    same = write_run(tmp_path / "same", rows, seed=1)
    untrained = write_run(tmp_path / "untrained", {0: {"reward": [0.0] * 4}}, lr=2.0)
    late = write_run(tmp_path / "late", {8: {"reward": [0.0] * 4}, 9: {"reward": [0.0] * 4}}, lr=3.0)
    others = write_run(tmp_path / "others", rows, lr=4.0, prompts=("w", "x", "y", "z"))
    metrics = write_run(tmp_path / "metrics", {0: {"x": [0.0] * 4}, 5: {"x": [0.0] * 4}}, lr=5.0)
    write_results(Results((ModelResults("m", {}),), settings={"config": {}}), tmp_path / "bench")
    for folders, message in (
        ((untrained,), "untrained was not validated after training had begun"),
        ((run, same, untrained), "untrained was not validated after training had begun"),
        ((run, untrained), "untrained was not validated after training had begun"),
        ((run, late), r"late was first validated after 800 images, when .*run had ended, after 500"),
        ((run, others), "no image of the same prompt, sample and noise in common; .*others differs most"),
        ((run, metrics), "no metric in common"),
        ((run, tmp_path / "bench"), "training runs and benchmark runs"),
        ((tmp_path / "bench",), "bench:m is alone"),
    ):
        with pytest.raises(ValueError, match=message):
            compared(*folders)
