"""Whole runs of ``realgen.fit`` on the shadow GPU, alone or as one of two ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import PropertyMock, patch

import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from realgen.cli import training
from realgen.fit import main
from tests.helpers.shadow_device import GPU, Traffic, shadow_device


class OneOfTwoRanks(DDPStrategy):
    """Rank 0 of two that hold the same numbers: collectives are those of the mode, gradients are their own mean."""

    root_device = GPU

    def _configure_launcher(self) -> None:
        """Start no other process."""

    def setup_distributed(self) -> None:
        self.set_world_ranks()
        torch.distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())

    def _setup_model(self, model: nn.Module) -> nn.Module:
        return model

    def _register_ddp_hooks(self) -> None:
        """Leave the module as it is: it is not wrapped."""

    def teardown(self) -> None:
        super().teardown()
        torch.distributed.destroy_process_group()


@contextmanager
def shadow_training() -> Iterator[list[Traffic]]:
    """Make the trainers of this process train on the shadow GPU from the first validation or fit on."""
    run, seen = training._validate_and_fit, list[Traffic]()

    def on_the_gpu(cli: Any) -> None:
        with shadow_device() as traffic:
            seen.append(traffic)
            run(cli)

    with (
        patch.object(training, "_validate_and_fit", on_the_gpu),
        patch.object(CPUAccelerator, "setup_device", lambda self, device: None),
        patch.object(SingleDeviceStrategy, "root_device", PropertyMock(return_value=GPU)),
        patch.object(torch.cuda, "get_device_name", lambda *_: "shadow"),
    ):
        yield seen


def shadow_fit(*arguments: str, ranks: int = 1) -> Traffic:
    """Run ``realgen.fit`` with these arguments; its errors are raised."""
    several = ["--trainer.devices=2", "--trainer.strategy=tests.helpers.shadow_trainer.OneOfTwoRanks"]
    with shadow_training() as seen, patch.dict("os.environ", {"REALGEN_TRACEBACK": "1"}):
        assert main([*arguments, *(several if ranks == 2 else [])]) == 0
    return seen[0]
