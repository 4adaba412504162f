from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from realgen.benchmark.comparison.runs import ImageKey, RecordedRun, read_runs
from realgen.benchmark.results import ImageRow, ModelResults, Results, write_results
from realgen.functional.estimate import Estimate
from tests.helpers.run_folders import write_run


def test_a_run_is_read_with_its_place_and_without_what_tells_nothing(tmp_path: Path) -> None:
    write_run(
        tmp_path / "run",
        {0: {"reward": [0.1, 0.2, None, 0.4]}, 10: {"reward": [0.5, 0.6, 0.7, 0.8]}},
        seed=3,
        whole={0: {"kid": 2.0, "reward": 0.2}, 10: {"kid": 1.0, "reward": 0.65}},
        trainer={"max_epochs": 6, "default_root_dir": "x", "precision": None, "accelerator": "cpu"},
    )
    (run,) = read_runs(tmp_path / "run")
    assert (run.kind, run.seed, run.name) == ("run", 3, str(tmp_path / "run"))
    assert run.settings == {
        "model.class_path": "realgen.modules.GRPOModule", "model.optimizer.lr": 1e-3, "model.seed": 3,
        "trainer.accelerator": "cpu",
    }  # fmt: skip
    assert [(point.iteration, point.images, point.seconds) for point in run.points] == [(0, 0, 0), (10, 1000, 100)]
    assert run.points[0].values["reward"] == {
        ImageKey("000", "a cat", 0, 1000): 0.1,
        ImageKey("001", "a dog", 0, 1001): 0.2,
        ImageKey("003", "a red fox", 0, 1003): 0.4,
    }
    assert [point.corpus for point in run.points] == [{"kid": 2.0}, {"kid": 1.0}]  # reward has rows of its own


def test_the_newest_log_of_a_resumed_run_counts(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {4: {"reward": [0.0] * 4}}, whole={4: {"kid": 9.0}})
    for version, kid in ((2, 5.0), (10, 7.0), ("10.bak", 8.0)):
        (folder / "csv" / f"version_{version}").mkdir()
        (folder / "csv" / f"version_{version}" / "metrics.csv").write_text(f"step,val/kid\n4,{kid}\n")
    assert read_runs(folder)[0].points[0].corpus == {"kid": 7.0}


def test_a_value_and_a_reference_to_it_are_one_setting(tmp_path: Path) -> None:
    settings = []
    for name, rate in (("old", "0.5"), ("new", "${model.init_args.lr}")):
        folder = write_run(tmp_path / name, {4: {"reward": [0.0] * 4}})
        text = f"model: {{init_args: {{lr: 0.5, optimizer: {{init_args: {{lr: '{rate}'}}}}}}}}"
        (folder / "config.yaml").write_text(text.replace("'0.5'", "0.5"))
        settings.append(read_runs(folder)[0].settings)
    assert settings[0] == settings[1] == {"model.lr": 0.5, "model.optimizer.lr": 0.5}


def test_a_benchmark_run_gives_one_run_per_model(tmp_path: Path) -> None:
    scores = {"omniaid": Estimate(70.0), "kid": Estimate(1.5), "fid": Estimate(None)}
    rows = [
        ImageRow("000", model, "people", "a cat", f"{model}/000.png", {"omniaid": value, "hps": None})
        for model, value in (("real", 0.9), ("base", 0.2), ("tuned", 0.7))
    ]
    models = tuple(ModelResults(name, scores) for name in ("base", "tuned"))
    settings = {"seed": 5, "config": {"generate": {"num_steps": 4, "seed": 5}}}
    write_results(Results(models, rows=tuple(rows), detectors=("omniaid",), settings=settings), tmp_path)
    base, tuned = read_runs(tmp_path)
    assert (base.name, base.kind, base.seed) == (f"{tmp_path}:base", "benchmark", 5)
    assert tuned.settings == {"model": "tuned", "generate.num_steps": 4, "generate.seed": 5}
    assert tuned.points[0].values == {"omniaid": {ImageKey("000", "a cat"): 0.7}}
    assert tuned.points[0].corpus == {"kid": 1.5}


def write_bench_run(folder: Path, *, images: str = "images/m", digest: str = "", **settings: Any) -> RecordedRun:
    """A benchmark's folder with one model; returns what is read of it."""
    rows = (ImageRow("000", "m", "", "a cat", "", {"omniaid": 0.5}),)
    model = ModelResults("m", {}, images=images, digest=digest)
    write_results(Results((model,), rows=rows, settings={"seed": 0, "config": {"device": "cpu"}, **settings}), folder)
    return read_runs(folder)[0]


def test_it_is_known_of_which_metrics_lower_is_better(tmp_path: Path) -> None:
    metrics = {
        "kid": {"class_path": "realgen.metrics.KID"},
        "variety": {"class_path": "realgen.metrics.Diversity", "init_args": {"encoder": None}},
        "mine": {"class_path": "elsewhere.Metric"},
        "gone": {"class_path": "realgen.metrics.Gone"},
        "none": None,
    }
    folder = write_run(tmp_path / "run", {0: {"reward": [0.1] * 4}}, metrics=metrics)
    assert read_runs(folder)[0].higher_is_better == {"kid": False, "variety": True}
    scores = {"kid": Estimate(1.0, higher_is_better=False), "x": Estimate(1.0)}
    write_results(Results((ModelResults("m", scores),), settings={"config": {}}), tmp_path / "bench")
    assert read_runs(tmp_path / "bench")[0].higher_is_better == {"kid": False}


def test_the_version_of_the_code_is_a_setting(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {0: {"reward": [0.1] * 4}})
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(f"# realgen 9.8.7: python -m realgen.fit\n{text}")
    assert read_runs(folder)[0].settings["realgen"] == "9.8.7"
    bench = write_bench_run(tmp_path / "bench", versions={"realgen": "9.8.6", "torch": "2"})
    assert bench.settings == {"model": "m", "device": "cpu", "realgen": "9.8.6"}


def test_given_images_are_told_apart_by_their_content_and_have_no_seed(tmp_path: Path) -> None:
    runs = [write_bench_run(tmp_path / d, images="/elsewhere/m", digest=d) for d in ("old", "new")]
    assert [(run.seed, run.settings["images"]) for run in runs] == [(None, "old"), (None, "new")]


def test_drawn_images_are_told_apart_by_the_weights_that_drew_them(tmp_path: Path) -> None:
    found = []
    for name in ("before", "after"):
        (tmp_path / name / "images/m").mkdir(parents=True)
        (tmp_path / name / "images/m/settings.json").write_text(json.dumps({"adapters": {"runs/x/lora": name}}))
        found.append(write_bench_run(tmp_path / name, digest=f"of the seed and {name}"))
    assert [(run.seed, run.settings["adapters of runs/x/lora"]) for run in found] == [(0, "before"), (0, "after")]
    assert "images" not in found[0].settings  # other seeds draw other images, of the same settings


def test_runs_without_a_config_are_like_no_other(tmp_path: Path) -> None:
    first, second = (write_bench_run(tmp_path / name, config=None) for name in ("first", "second"))
    assert first.settings != second.settings


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (None, None, "nothing is no folder with config.yaml"),
        ("notes.txt", "", "has neither config.yaml .* nor results.json"),
        ("config.yaml", "seed_everything: 0", "has no validation.csv: it was not validated yet, or without"),
        ("results.json", "{}", "is no results file of this version"),
    ],
)
def test_what_is_no_run_is_refused(name: str | None, text: str | None, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "nothing"
    if name is not None:
        folder.mkdir()
        (folder / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_runs(folder)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.yaml", "- a\n", "must hold a mapping of settings, got list"),
        ("config.yaml", "a: [", "config.yaml cannot be read"),
        ("validation.csv", "iteration,reward\n0,1\n", "lacks the columns images, seconds, key, sample, seed, prompt"),
        ("validation.csv", "iteration,images,seconds,key,sample,seed,prompt,reward\n", "holds no validation"),
        ("csv/version_0/metrics.csv", "step,val/kid\n4,much\n", "metrics.csv is no log of numbers: .*'much'"),
    ],
)
def test_a_damaged_file_is_named(file: str, text: str, message: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {0: {"reward": [0.0] * 4}}, whole={0: {"kid": 1.0}})
    (folder / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_runs(folder)
