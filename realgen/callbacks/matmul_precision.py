"""The precision of float32 matrix products during a run."""

from __future__ import annotations

from typing import Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

MatmulPrecision = Literal["highest", "high", "medium"]


class SetMatmulPrecision(Callback):
    """Set PyTorch's ``float32_matmul_precision`` when a stage begins, and restore it after the stage.

    With a model in bfloat16 it affects the trained adapters, and VAE and detectors in float32.

    Args:
        precision: ``highest`` multiplies as float32; ``high`` lets GPUs round factors to TF32 (10 bits of mantissa),
            which is several times faster; ``medium`` allows bfloat16 too, which CPUs use.
    """

    def __init__(self, precision: MatmulPrecision) -> None:
        self.precision = precision
        self._before: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set it."""
        if self._before is None:
            self._before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.precision)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore it."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore it: after an error Lightning does not call ``teardown``."""
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            torch.set_float32_matmul_precision(self._before)
            self._before = None
