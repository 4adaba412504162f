"""The report that a run keeps in its folder."""

from __future__ import annotations

import errno
import json
import logging
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.trainer.states import TrainerFn

from realgen.callbacks import LastCheckpoint, Report, RewriteTable, ValidationRows
from realgen.callbacks.metrics_csv import MetricsCSV
from realgen.callbacks.report import _Warnings
from realgen.cli.realgen_cli import contain_reports
from realgen.failures import Contained
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


def test_a_full_disk_leaves_no_empty_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *args: Any, **settings: Any) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    handler = _Warnings(tmp_path / "warnings.txt")
    monkeypatch.setattr(Path, "open", full)
    handler.handle(logging.LogRecord("realgen", logging.WARNING, "", 0, "the disk is full", (), None))
    handler.end()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.isinstance")  # Lightning's, of its own code; a command ignores it too
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


def test_a_warning_that_no_disk_takes_ends_no_run(tmp_path: Path) -> None:
    def fails() -> None:
        raise OSError("No space left on device")

    report, made, trained = Report(), trainer(tmp_path), module()
    (tmp_path / "warnings.txt").mkdir()  # nothing can be written there
    report.setup(made, trained, "fit")
    assert Contained(SimpleNamespace(fails=fails), "fails")() is None  # told by a logger that the report hears
    report.teardown(made, trained, "fit")


def test_what_python_warns_of_is_kept_and_shown_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[Any, ...]] = []

    def show(*arguments: Any) -> None:
        shown.append((str(arguments[0]), *arguments[1:]))

    monkeypatch.setattr(warnings, "showwarning", show)
    (tmp_path / "warnings.txt").write_bytes(b"told before\n\xff\n")
    report, made, trained = Report(), trainer(tmp_path), module()
    warnings.simplefilter("always")
    report.setup(made, trained, "fit")
    for text in ("skipped 3 samples: 100 %d", "told before", "skipped 3 samples: 100 %d"):
        warnings.warn_explicit(text, UserWarning, "loader.py", 7)
    report.teardown(made, trained, "fit")
    warnings.warn_explicit("later", UserWarning, "loader.py", 7)
    kept = (tmp_path / "warnings.txt").read_bytes().splitlines()
    assert kept == [b"told before", b"\xff", b"skipped 3 samples: 100 %d"]
    texts = ["skipped 3 samples: 100 %d", "told before", "skipped 3 samples: 100 %d", "later"]
    assert shown == [(text, UserWarning, "loader.py", 7, None, None) for text in texts]
    assert warnings.showwarning is show


def test_nothing_is_drawn_between_an_error_and_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[object] = []
    monkeypatch.setattr("realgen.callbacks.report.write_run_report", lambda *args, **kwargs: written.append(args))
    (tmp_path / "config.yaml").write_text("model: null\n")
    report, made, trained = Report(), trainer(tmp_path), module()
    made.state.fn = TrainerFn.FITTING
    report.on_exception(made, trained, RuntimeError("it broke"))
    assert written == []
    report.on_fit_end(made, trained)
    assert len(written) == 1
