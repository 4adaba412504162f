"""A small recipe, and the command line run in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch import LightningDataModule

from realgen.cli.error_frame import run_command
from realgen.cli.realgen_cli import RealGenCLI
from realgen.cli.training import train
from tests.helpers.cli_toys import Base

RECIPE = """\
trainer:
  max_epochs: 2
  accelerator: cpu
  log_every_n_steps: 1
  num_sanity_val_steps: 0
  enable_progress_bar: false
  enable_model_summary: false
callbacks:
  last:
    class_path: realgen.callbacks.LastCheckpoint
model:
  class_path: tests.helpers.cli_toys.Model
  init_args:
    group_size: 6
    lr: 0.5
    optimizer:
      class_path: torch.optim.SGD
      init_args:
        lr: ${model.init_args.lr}
    reward:
      class_path: tests.helpers.cli_toys.Weighted
      init_args:
        rewards:
          bright:
            class_path: tests.helpers.cli_toys.Bright
            init_args:
              target: 0.2
              mode: mean
          other:
            class_path: tests.helpers.cli_toys.Pretrained
            init_args:
              checkpoint: x
        weights:
          bright: 1.0
data:
  class_path: tests.helpers.cli_toys.Data
  init_args:
    path: x
"""


def run(argv: list[str], check: Callable[[RealGenCLI], None] = lambda cli: None) -> int:
    """As ``realgen.fit`` does it, with toys."""

    def command() -> int:
        cli = RealGenCLI(Base, LightningDataModule, argv=argv)
        try:
            with cli.run.cleanup_on_error():
                check(cli)
            return train(cli)
        finally:
            cli.run.release()

    return run_command(command)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with ``toy.yaml``."""
    (tmp_path / "toy.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REALGEN_RUN_DIR", raising=False)
    return tmp_path


@pytest.fixture
def fit(folder: Path) -> Callable[..., int]:
    """``realgen.fit`` on the small recipe; takes the arguments behind it, returns the exit code."""
    return lambda *argv: run(["--config", "toy.yaml", *argv])


@pytest.fixture
def parse(folder: Path) -> Callable[..., RealGenCLI]:
    """The parsed and instantiated command line, not run."""
    return lambda *argv: RealGenCLI(Base, LightningDataModule, argv=["--config", "toy.yaml", *argv])
