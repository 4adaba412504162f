"""The first lines of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule

from realgen.cli.realgen_cli import RealGenCLI
from realgen.cli.training import first_lines
from realgen.modules.base import TrainableModule


@pytest.fixture
def cli(tmp_path: Path) -> RealGenCLI:
    argv = ["--config=configs/diffusion.yaml", f"--output_dir={tmp_path}", "--trainer.limit_train_batches=5"]
    made = RealGenCLI(TrainableModule, LightningDataModule, argv=argv)
    made.model.configure_model()
    return made


def test_they_say_what_is_trained_on_what(cli: RealGenCLI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    lines = dict(line.split(maxsplit=1) for line in first_lines(cli).splitlines())
    number = sum(weight.numel() for weight in cli.model.policy.parameters() if weight.requires_grad)
    assert lines == {
        "folder": str(cli.run.path),
        "device": "1 x cpu; 2 of 2 GPUs lie idle, to use them: --trainer.accelerator=gpu --trainer.devices=2",
        "policy": f"DiffusionPolicy, {number:,} trainable parameters",
        "iterations": "25, of 6 prompts x 12 samples each",
        "rewards": "omniaid x 1, alignment x 0.5",
        "watch": f"{cli.run.path / 'report.html'}; {cli.run.path / 'csv'}; {cli.run.path / 'wandb'}, offline",
        "time": "told after the first iteration",
    }


def test_an_earlier_run_tells_the_time(cli: RealGenCLI) -> None:
    log = cli.run.path.parent / "20200101-000000" / "csv" / "version_0" / "metrics.csv"
    log.parent.mkdir(parents=True)
    log.write_text("iteration,seconds/rollout,seconds/update\n1,9,9\n2,3,1\n3,3,1\n")
    head = log.parents[2] / "config.yaml"
    head.write_text("# realgen 0.1.0: python -m realgen.fit --config configs/llm.yaml\n")
    assert "told after the first iteration" in first_lines(cli)  # another recipe's run
    head.write_text("# realgen 0.1.0: python -m realgen.fit --config other/diffusion.yaml --model.x=1\n")
    assert f"about 2 min, if as fast as {log.parents[2]} (4 s per iteration)" in first_lines(cli)
