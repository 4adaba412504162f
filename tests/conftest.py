"""What every test stands on: no network, one thread, a fixed seed, and the repository's own models."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Read once when torch, transformers and wandb are imported, and inherited by the processes that tests start.
os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
    }
)

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)
importlib.import_module("lightning.pytorch")  # its logger keeps the stderr of that moment, which no test may close


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked ``gpu`` on a machine without one."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _fixed_arithmetic() -> Iterator[None]:
    """Seed PyTorch, and give back the precision of float32 products, which a benchmark's command line sets for good."""
    torch.manual_seed(0)
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(autouse=True)
def _no_value_left_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what a test had masked: a token called ``secret`` would be masked in all that later tests print."""
    monkeypatch.setattr("realgen.masking._values", {})


@pytest.fixture(autouse=True)
def _no_run_left_open() -> Iterator[None]:
    """End the W&B run that a test's logger opened: until then ``wandb.init`` answers with that run, whoever asks."""
    yield
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository's root, made the working directory, as the configs' relative paths expect."""
    monkeypatch.chdir(ROOT)
    return ROOT


@pytest.fixture(scope="session")
def nano() -> Path:
    """The folder of the shipped small models; a missing one is a failure, since they belong to the repository."""
    folder = ROOT / "data" / "nano"
    if not folder.is_dir():
        pytest.fail(f"{folder} is missing; `make nano` retrains the small models.")
    return folder


@pytest.fixture
def make_image() -> Callable[..., Image.Image]:
    def make(seed: int = 0, *, height: int = 6, width: int = 4) -> Image.Image:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    return make
