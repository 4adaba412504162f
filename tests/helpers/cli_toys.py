"""Small components, a model and data for the tests of the command line; configs name them by their import path."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset


class Reward(ABC):
    @abstractmethod
    def score(self) -> float: ...


class Bright(Reward):
    def __init__(self, target: float = 0.5, mode: Literal["mean", "median"] = "mean") -> None:
        if target < 0:
            raise ValueError(f"target must be >= 0, got {target}.")
        self.target = target
        self.mode = mode

    def score(self) -> float:
        return self.target


class Pretrained(Reward):
    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def load(self) -> None:
        raise ValueError(f"checkpoint must hold weights, got {self.checkpoint!r}.")

    def score(self) -> float:
        return 1.0


class Weighted(Reward):
    def __init__(self, rewards: dict[str, Reward | None], weights: dict[str, float] | None = None) -> None:
        self.rewards = rewards
        self.weights = weights

    def score(self) -> float:
        return sum(reward.score() for reward in self.rewards.values() if reward is not None)


class Base(LightningModule, ABC):
    @abstractmethod
    def loss(self, batch: list[Tensor]) -> Tensor: ...


class Model(Base):
    """One weight that walks, one step a batch."""

    def __init__(
        self,
        reward: Reward,
        group_size: int = 4,
        lr: float = 0.1,
        metrics: dict[str, Reward | None] | None = None,
        optimizer: OptimizerCallable = torch.optim.SGD,
        fail_at: int | None = None,
    ) -> None:
        super().__init__()
        if group_size < 2:
            raise ValueError(f"group_size must be at least 2, got {group_size}.")
        self.reward = reward
        self.group_size = group_size
        self.lr = lr
        self.metrics = metrics
        self.optimizer = optimizer
        self.fail_at = fail_at
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def loss(self, batch: list[Tensor]) -> Tensor:
        return self.weight * batch[0].mean()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if self.global_step == self.fail_at:
            raise RuntimeError("the weight walked away\nand will not come back")
        self.log("weight", self.weight.detach())
        return self.loss(batch)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/weight", self.weight)

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())


class Data(LightningDataModule):
    def __init__(self, path: str, rows: int = 4) -> None:
        super().__init__()
        self.path = path
        self.rows = rows

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.ones(self.rows)))

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.ones(1)))
