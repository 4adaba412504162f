"""The contract of a module that ``python -m realgen.fit`` trains."""

from abc import ABC, abstractmethod
from typing import Any

from lightning.pytorch import LightningModule


class TrainableModule(LightningModule, ABC):
    """A module that reads its weights late and counts its iterations over resumed runs.

    The command calls ``configure_model`` and ``configure_optimizers`` once before it makes the run's folder, so that
    what is wrong shows before anything is written.
    """

    iteration: int = 0
    """Training steps done, in the checkpoint; the data begin there."""

    @abstractmethod
    def configure_model(self) -> None:
        """Read the weights; a second call does nothing."""

    @abstractmethod
    def configure_optimizers(self) -> Any:
        """Make the optimizer of the trained weights; a second call makes another one."""
