"""The report that a run keeps in its folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from realgen.callbacks import LastCheckpoint, Report, RewriteTable, ValidationRows
from realgen.callbacks.metrics_csv import MetricsCSV
from realgen.cli.containment import contain_reports
from tests.callbacks.test_rewrite_table import Shouting
from tests.helpers.toy_grpo import PROMPTS, Prompts, module, trainer


def fit(folder: Path, *, epochs: int = 2, resume: Path | None = None, reports: Report | None = None) -> None:
    trained = module(policy=Shouting())
    (folder / "config.yaml").write_text("# realgen 0: python -m realgen.fit\nmodel: null\n")
    log = MetricsCSV(folder, iteration=lambda: trained.iteration, fresh=resume is None)
    callbacks = [RewriteTable(), ValidationRows(), LastCheckpoint(), reports or Report(num_prompts=2)]
    made = trainer(folder, callbacks=callbacks, logger=log, enable_checkpointing=True, max_epochs=epochs)
    contain_reports(made)
    if resume is None:
        made.validate(trained, Prompts(), verbose=False)
    made.fit(trained, Prompts(), ckpt_path=resume, weights_only=True)


def test_a_run_keeps_pictures_and_a_page_and_goes_on_with_them(tmp_path: Path) -> None:
    report = Report(num_prompts=2)
    fit(tmp_path, reports=report)
    folders = sorted((tmp_path / "pictures").iterdir())
    assert [folder.name for folder in folders] == [f"iteration-{i:06d}" for i in (0, 2, 4)]
    lines = [json.loads(line) for line in (folders[0] / "pictures.jsonl").read_text().splitlines()]
    assert [(line["prompt"], line["text"]) for line in lines] == [(prompt, f"{prompt}!") for prompt in PROMPTS[:2]]
    assert all((folders[0] / line["file"]).is_file() for line in lines)
    whole = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'data-name="iteration 4"' in whole
    (tmp_path / "report.html").unlink()
    (tmp_path / "pictures" / "iteration-000099").mkdir()  # of a validation that is still to come
    fit(tmp_path, epochs=3, resume=next(tmp_path.rglob("last.ckpt")))
    gone_on = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(f'data-name="iteration {i}"' in gone_on for i in (0, 2, 4, 6))
    assert "iteration 99" not in gone_on


def test_what_a_run_is_warned_of_is_kept_once_and_its_own_failure_ends_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Warned(Report):
        def on_train_batch_end(self, *args: object) -> None:
            logging.getLogger("realgen.test").warning("it is\nodd")

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("no page today")

    monkeypatch.setattr("realgen.callbacks.report.write_run_report", fail)
    fit(tmp_path, reports=Warned())
    kept = (tmp_path / "warnings.txt").read_text().splitlines()
    assert kept[0] == "it is odd"
    assert [line.partition(" failed")[0] for line in kept[1:]] == ["Warned", "Warned"]  # on_validation_end, on_fit_end
    assert caplog.text.count("no page today") == 2
