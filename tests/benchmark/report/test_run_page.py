"""The report of a training run, made of a folder as runs leave it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from realgen.benchmark.report.run_page import write_run_report
from realgen.benchmark.report.run_view import curve_of, held_out, read_log
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
    (folder / "summary.json").write_text(json.dumps({"intervals": {"kid": [-0.75, -0.25]}}))
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
    write_run_report({"": [read_log(folder)]}, folder / "report.html", title="Run")
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
    logs = [read_log(run(tmp_path / f"{seed}", seed=seed)) for seed in (0, 1)]
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
