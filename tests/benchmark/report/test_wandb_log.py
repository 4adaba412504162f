"""What goes to Weights & Biases, read back from an offline run's own objects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import wandb

from realgen.benchmark import ImageRow, ModelResults, Results
from realgen.benchmark.report.wandb_log import image_rows, log_results, summary
from realgen.functional.estimate import Estimate
from tests.helpers.toy_bench import write_grey


def results(folder: Path, number: int = 3) -> Results:
    rows = [
        ImageRow(f"{i:05d}", model, "people", f"prompt {i}", str(write_grey(folder / f"{model}{i}.png", i)), {"d": 0.5})
        for model in ("real", "flux")
        for i in range(number)
    ]
    model = ModelResults(
        "flux", {"d": Estimate(50.0, 45.0, 55.0), "kid": Estimate(None)}, {}, {"d": {"auroc": Estimate(0.7)}}
    )
    return Results((model,), ModelResults("real", {"d": Estimate(90.0)}), tuple(rows), ("d",))


def test_summary_names_model_score_and_check(tmp_path: Path) -> None:
    assert summary(results(tmp_path)) == {
        "real/d": 90.0, "flux/d": 50.0, "flux/d_low": 45.0, "flux/d_high": 55.0, "flux/d/auroc": 0.7,
    }  # fmt: skip


def test_images_are_spread_over_the_prompts(tmp_path: Path) -> None:
    shown = image_rows(results(tmp_path, 8), 4)
    assert [row["flux"].prompt for row in shown] == ["prompt 0", "prompt 2", "prompt 4", "prompt 6"]
    assert set(shown[0]) == {"real", "flux"}


@pytest.mark.slow
def test_a_run_gets_summary_tables_and_files(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<html></html>")
    # A run of its own, even where another test has left one open.
    with wandb.init(mode="offline", dir=tmp_path, project="realgen", reinit="create_new") as run:
        log_results(run, results(tmp_path), tmp_path, [tmp_path / "report.html"])
        assert run.summary["flux/d"] == 50.0
    tables = [json.loads(path.read_text()) for path in (tmp_path / "wandb").rglob("*.table.json")]
    scores, images = sorted(tables, key=lambda table: len(table["columns"]))
    assert scores["columns"] == ["model", "d", "kid"]
    assert scores["data"] == [["real", 90.0, None], ["flux", 50.0, None]]
    assert images["columns"] == ["name", "category", "prompt", "real", "flux", "real: scores", "flux: scores"]
    assert [row[3:5] for row in images["data"]] == [["Image", "Image"]] * 3
    assert images["data"][2][-1] == "d 0.500"
