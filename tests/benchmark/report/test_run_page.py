"""The report of a training run, made of a folder as runs leave it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from realgen.benchmark.comparison import runs
from realgen.benchmark.comparison.runs import training_run
from realgen.benchmark.report import run_view, thumbnails
from realgen.benchmark.report.run_page import write_run_report
from realgen.benchmark.report.run_view import curve_of, held_out, mean_interval
from tests.benchmark.report.test_page import HOSTILE, Page, save_image
from tests.helpers.run_folders import write_run


def run(folder: Path, *, text: str = "a cat", **settings: Any) -> Path:
    """A run of two validations, pictures of both, rewrites and a warning; ``text`` is all that comes from outside."""
    prompts = (text, "a dog", "the sea", "a fox")
    rows = {0: {"reward": [0.1, 0.2, 0.3, 0.4], "probe": [0.5] * 4}}
    rows[10] = {"reward": [0.9, 0.2, 0.4, 0.1], "probe": [0.5, 0.6, 0.7, 0.8]}
    whole = {0: {"reward": 0.25, "probe": 0.5, "kid": 2.0}, 10: {"reward": 0.4, "probe": 0.65, "kid": 1.5}}
    metrics = {"kid": {"class_path": "realgen.metrics.KID"}, "probe": {"class_path": "realgen.metrics.HeldOutDetector"}}
    write_run(folder, rows, whole=whole, prompts=prompts, metrics=metrics, **settings)
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    (folder / "config.yaml").write_text(f"# realgen 0: python -m realgen.fit {text}\n{config}", encoding="utf-8")
    log = folder / "csv" / "version_0" / "metrics.csv"
    train = "".join(f"0,{0.1 * i:.1f},{i},,,,{i / 10},{i}\n" for i in (1, 2, 3))
    lines = log.read_text().splitlines()
    log.write_text("\n".join([f"{lines[0]},grad_norm,seconds/rollout", *(f"{x},," for x in lines[2:])]) + f"\n{train}")
    ends = {"before": {"iteration": 0}, "after": {"iteration": 10}}
    (folder / "summary.json").write_text(json.dumps({**ends, "intervals": {"kid": [-0.75, -0.25]}}))
    (folder / "warnings.txt").write_text(f"{text} is odd\n", encoding="utf-8")
    (folder / "rewrites").mkdir()
    for iteration in (0, 10):
        place = folder / "pictures" / f"iteration-{iteration:06d}"
        save_image(place / "0.jpg", (25 * iteration, 0, 0))
        line = {"key": "000", "prompt": text, "text": f"{text} {iteration}", "file": "0.jpg", "reward": 0.5}
        (place / "pictures.jsonl").write_text(json.dumps(line) + "\n")
        rewrite = {"prompt": text, "text": f"{text} {iteration}", "reward": None}
        (folder / "rewrites" / f"validation-{iteration:06d}.jsonl").write_text(json.dumps(rewrite) + "\n")
    return folder


def page(folder: Path) -> Page:
    write_run_report({"": [training_run(folder)]}, folder / "report.html", title="Run")
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_the_page_shows_what_changed_and_how_the_run_went(tmp_path: Path) -> None:
    shown = page(run(tmp_path / "run"))
    table = shown.table("held-out prompts")
    assert table["held-out prompts"][:2] == ["iteration 0", "iteration 10"]
    assert table["reward"][:3] == ["0.250", "0.400", "+0.150"]
    assert re.fullmatch(r"[+-]0\.\d{3} to \+0\.\d{3}", table["reward"][3])
    assert table["kid"] == ["2.000", "1.500", "-0.500", "-0.750 to -0.250"]  # by summary.json: no image has one
    labels = [re.findall('aria-label="([^"]*)"', svg)[0] for svg in shown.svgs]
    assert "reward: rollouts from 0.1 to 0.3; held-out prompts from 0.25 to 0.4" in labels
    assert {"kid: from 2 to 1.5", "probe: from 0.5 to 0.65", "grad_norm: from 0.1 to 0.3"} <= {
        label.replace(":  from", ": from") for label in labels
    }
    assert any(label.startswith("6 seconds in all") for label in labels)
    assert [attributes.get("data-name") for attributes in shown.all("div") if "data-name" in attributes] == [
        "iteration 0",
        "iteration 10",
    ]
    assert [len(shown.all(tag)) for tag in ("script", "input")] == [1, 1]
    assert "reward 0.100 before, 0.900 after (+0.800)" in shown.text
    assert shown.text.count("Of this prompt no picture was kept.") == 3  # of four prompts one has pictures
    assert shown.text.index("0.900 after") < shown.text.index("0.100 after")  # best, then worst
    assert "a cat is odd" in shown.text
    assert "python -m realgen.fit a cat" in shown.text


def test_nothing_from_outside_acts_in_the_page(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", text=HOSTILE)
    shown = page(folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    policy = next(meta["content"] for meta in shown.all("meta") if "Content-Security" in meta.get("http-equiv", ""))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not [name for _, found in shown.elements for name in found if name.startswith("on")]
    assert all(found["src"].startswith("data:") for found in shown.all("img"))
    assert shown.text.count(HOSTILE) >= 6  # prompts, rewrites, the warning, the command, the config


@pytest.mark.parametrize("missing", ["validation.csv", "csv", "pictures", "rewrites", "summary.json", "warnings.txt"])
def test_a_run_that_lacks_a_file_has_a_page(missing: str, tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    (folder / missing).rename(tmp_path / "elsewhere")
    assert "What was asked for" in page(folder).text


def test_rewards_have_the_spread_of_prompts_and_seeds_their_range(tmp_path: Path) -> None:
    logs = [training_run(run(tmp_path / f"{seed}", seed=seed)) for seed in (0, 1)]
    value, low, high = held_out("reward", logs[0])[10]
    assert (value, low, high) == pytest.approx((0.4, 0.13, 0.75))  # of 0.1, 0.2, 0.4, 0.9: the 10th and 90th percentile
    measured = [{0: (1.0, 0.0, 9.0)}, {0: (3.0, 0.0, 9.0), 5: (1.0, 1.0, 1.0)}]
    curve = curve_of("A", measured, [{0: 10.0, 5: 1.0}, {0: 20.0, 5: 2.0}])
    assert curve is not None
    assert (curve.points, curve.band) == ([(15.0, 2.0)], [(15.0, 1.0, 3.0)])
    write_run_report({"A": logs[:1], "B": logs[1:]}, tmp_path / "report.html", title="Two runs")
    shown = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "reward: A from 0.25 to 0.4; B from 0.25 to 0.4" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Rewards at equal seconds" in shown.text
    assert not [svg for svg in shown.svgs if "opacity" in svg]  # one seed each: no range over seeds


def test_a_page_costs_only_what_is_new_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: (called.append(name), function(*args, **kwargs))[1]

    folder = run(tmp_path / "run")
    for iteration in range(0, 301, 10):  # 31 validations of 20 prompts
        place = folder / "pictures" / f"iteration-{iteration:06d}"
        keys = [f"{number:03d}" for number in (*range(4, 20), *range(4))]  # the best and the worst are not the first
        lines = [{"key": key, "prompt": key, "file": f"{key}.png", "reward": None} for key in keys]
        for line in lines:
            save_image(place / str(line["file"]), (0, 0, 0), (2, 2))
        (place / "pictures.jsonl").write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.setattr(thumbnails, "decode_image", counted("decode", thumbnails.decode_image))
    monkeypatch.setattr(run_view, "bootstrap_mean", counted("bootstrap", run_view.bootstrap_mean))
    monkeypatch.setattr(runs, "read_csv", counted("rows", runs.read_csv))
    mean_interval.cache_clear()
    shown = page(folder)
    stops = [found["data-name"] for found in shown.all("div") if "data-name" in found]
    assert stops == [f"iteration {i}" for i in range(0, 301, 20)]
    # 12 at each stop; of the four prompts with the highest and the lowest reward, the first picture and the last.
    assert len(shown.all("img")) == called.count("decode") == 16 * 12 + 2 * 4
    assert called.count("bootstrap") == 4  # of the probe twice; of the change of both
    assert called.count("rows") == 1
    called.clear()
    save_image(folder / "pictures" / "iteration-000300" / "004.png", (9, 9, 9), (3, 3))
    page(folder)
    assert called == ["decode"]
    rows = (folder / "validation.csv").read_text()
    (folder / "validation.csv").write_text(rows + rows.splitlines()[-1].replace("10,", "20,", 1) + "\n")
    assert "iteration 20" in page(folder).table("held-out prompts")["held-out prompts"]


def test_a_long_curve_is_thinned_and_many_warnings_are_counted(tmp_path: Path) -> None:
    numbers = {i: (float(i), float(i), float(i)) for i in range(1000)}
    curve = curve_of("A", [numbers], [{i: float(i) for i in numbers}])
    assert curve is not None
    xs = [x for x, _ in curve.points]
    assert (len(xs), xs[0], xs[-1]) == (300, 0.0, 999.0)
    assert {later - x for x, later in pairwise(xs)} <= {3.0, 4.0}
    folder = run(tmp_path / "run")
    (folder / "warnings.txt").write_text("".join(f"odd {number}\n" for number in range(60)))
    (folder / "pictures" / "iteration-000010.bak").mkdir()
    shown = page(folder)
    assert shown.text.count("Warning:") == 50
    assert "10 more warnings stand in warnings.txt" in shown.text


def test_the_change_is_of_the_validations_above_it(tmp_path: Path) -> None:
    folder, rows = tmp_path / "run", {0: {"reward": [0.1]}, 10: {"reward": [0.3]}, 20: {"reward": [0.2]}}
    nan = float("nan")
    whole = {0: {"kid": 2.0, "late": nan, "zz": 1.0}, 10: {"kid": 1.75, "late": 3.0, "zz": nan}}
    write_run(folder, rows, prompts=("a cat",), whole={**whole, 20: {"kid": 1.5, "late": 3.5, "zz": nan}})
    ends = {"before": {"iteration": 0}, "after": {"iteration": 10}}  # it has gone on since
    (folder / "summary.json").write_text(json.dumps({**ends, "intervals": {"kid": [-0.5, -0.125]}}))
    table = page(folder).table("held-out prompts")
    assert table["held-out prompts"][:2] == ["iteration 0", "iteration 20"]
    assert table["kid"] == ["2.000", "1.500", "-0.500", ""]
    assert (table["late"], table["zz"]) == (["", "3.500", "", ""], ["1.000", "", "", ""])


def test_several_runs_show_what_any_of_them_has_measured(tmp_path: Path) -> None:
    rows: list[dict[str, list[float]]] = [{"reward": [0.5] * 4}, {"reward": [0.5] * 4, "extra": [0.25] * 4}]
    logs = [training_run(write_run(tmp_path / f"{i}", {0: row, 10: row})) for i, row in enumerate(rows)]
    write_run_report({"A": logs[:1], "B": logs[1:]}, tmp_path / "report.html", title="Two runs")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(re.findall(r'aria-label="extra: (B )?from 0.25 to 0.25"', text)) == 2
