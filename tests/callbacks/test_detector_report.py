"""The report of a detector's training."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from realgen.callbacks import DetectorReport, LastCheckpoint
from realgen.functional.corruptions import CHEATS, HARMLESS
from realgen.modules import DetectorTraining
from tests.helpers.toy_detector import ColorDetector, folders
from tests.helpers.toy_grpo import trainer


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DetectorReport]:
    """Validated once before, and once after eight passes of two iterations."""
    root = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    module = DetectorTraining(ColorDetector(), optimizer=lambda p: torch.optim.SGD(p, lr=1.0))
    report = DetectorReport()
    settings = {"max_epochs": 8, "limit_train_batches": 1.0, "check_val_every_n_epoch": 8}
    lightning = trainer(root, callbacks=[report], use_distributed_sampler=False, **settings)
    data = folders(root / "images")
    lightning.validate(module, data, verbose=False)
    lightning.fit(module, data)
    return root, report


def test_the_table_compares_both_validations(reported: tuple[Path, DetectorReport]) -> None:
    with (reported[0] / "report.csv").open(newline="") as file:
        rows = {row["condition"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["plain", *HARMLESS, *(f"cheat_{name}" for name in CHEATS)]
    plain = rows["plain"]
    assert (plain["before"], plain["after"], plain["change"]) == ("0.500", "1.000", "+0.500")
    assert (plain["AUROC"], plain["real"], plain["fake"]) == ("1.000", "1.000", "1.000")
    assert rows["cheat_blur"]["AUROC"] == rows["cheat_blur"]["real"] == ""


def test_the_markdown_holds_the_same(reported: tuple[Path, DetectorReport]) -> None:
    with (reported[0] / "report.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    title, _, *lines = (reported[0] / "report.md").read_text().splitlines()
    assert title.startswith("Held-out images; accuracy at iteration 0 (before) and 16 (after)")
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == header
    assert lines[1].count("---") == len(header)
    assert [[cell.strip() for cell in line[1:-1].split("|")] for line in lines[2:]] == rows


def test_a_resumed_run_compares_with_the_first_validation(reported: tuple[Path, DetectorReport]) -> None:
    resumed = DetectorReport()
    resumed.load_state_dict(reported[1].state_dict())
    assert resumed.before is not None
    assert resumed.before["iteration"] == 0
    assert resumed.before["figures"]["plain"]["accuracy"] == 0.5
    assert resumed.after == reported[1].after
    assert resumed.is_written(reported[0])
    resumed.after = {**resumed.after, "iteration": 32}
    assert not resumed.is_written(reported[0])


def test_it_prints_the_table_and_the_command_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = DetectorTraining(ColorDetector(), corruptions=False, cheats=False)
    settings = {"max_epochs": 2, "limit_train_batches": 1}
    callbacks = [DetectorReport(), LastCheckpoint()]
    trainer(tmp_path, callbacks=callbacks, use_distributed_sampler=False, enable_checkpointing=True, **settings).fit(
        module, folders(tmp_path / "images")
    )
    text = capsys.readouterr().out
    assert "Held-out images" in text
    assert "plain" in text
    assert f"--run_dir={tmp_path} --ckpt_path=last --trainer.max_epochs=4" in text.replace("\n", "")


def test_without_two_validations_it_says_nothing(tmp_path: Path) -> None:
    module = DetectorTraining(ColorDetector())
    settings = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 0}
    trainer(tmp_path, callbacks=[DetectorReport()], use_distributed_sampler=False, **settings).fit(
        module, folders(tmp_path / "images")
    )
    assert not (tmp_path / "report.md").exists()
