"""Two ranks whose samples have unequally many decisions, as completions do, follow one gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from realgen.modules import GRPOModule
from realgen.modules.seeds import iteration_generator
from realgen.objectives import GRPO
from realgen.parallel import world_size
from realgen.types import Rollout
from tests.helpers.toy_grpo import PROMPTS, Color, GaussianPolicy, Prompts, module, trainer

DECISIONS = (3, 1)
"""Of each sample, by rank."""


class Ragged(GaussianPolicy):
    """Keeps a number of each sample's decisions; that of its rank, where none is given."""

    def __init__(self, kept: int | None = None) -> None:
        super().__init__(dtype=torch.float64)
        self.kept = kept

    def roll(self, *args: Any) -> Rollout:
        rollout = super().roll(*args)
        rank = torch.distributed.get_rank() if world_size() > 1 else 0
        rollout.mask[:, DECISIONS[rank] if self.kept is None else self.kept :] = False
        return rollout


class Half(Ragged):
    """Decides on the first rank alone."""

    def roll(self, *args: Any) -> Rollout:
        self.kept = 3 * (torch.distributed.get_rank() == 0)
        return super().roll(*args)


class SaveWeights(Callback):
    """Writes what each rank has at the end."""

    def on_train_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        weights = torch.cat([pl_module.policy.weight.detach().flatten(), pl_module.policy.bias.detach()])
        torch.save(weights, f"{trainer.default_root_dir}/{trainer.global_rank}.pt")


def moved(folder: Path, policy: GaussianPolicy) -> Tensor:
    """By how much one update of two ranks lowers the weights; SGD of rate 1, so their gradient."""
    trained = module(
        policy=policy,
        reward=Color(0),
        objective=GRPO(0.2, 0.2, advantage_std="none"),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0),
        max_grad_norm=torch.inf,
    )
    short = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 0, "callbacks": [SaveWeights()]}
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo")
    trainer(folder, devices=2, strategy=strategy, use_distributed_sampler=False, **short).fit(trained, Prompts())
    ends = [torch.load(folder / f"{rank}.pt") for rank in range(2)]
    assert torch.equal(*ends)
    start = GaussianPolicy(dtype=torch.float64)
    start.load()
    return torch.cat([start.weight.detach().flatten(), start.bias.detach()]) - ends[0]


def by_hand(decisions: tuple[int, int]) -> Tensor:
    """-sum(A grad ln p) / number of decisions, over the decisions of both ranks."""
    total, policy = 0.0, GaussianPolicy(dtype=torch.float64)
    policy.load()
    for rank, kept in enumerate(decisions):
        rollout = policy.rollout(PROMPTS[:2], 4, generator=iteration_generator(0, rank, 0))
        red = rollout.images[:, 0, 0, 0].double().view(2, 4)
        advantages = (red - red.mean(1, keepdim=True)).view(8, 1)
        total = total - (advantages * policy.score(rollout, torch.arange(8)).log_probs)[:, :kept].sum()
    gradients = torch.autograd.grad(total / (8 * sum(decisions)), list(policy.trainable_parameters().values()))
    return torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.distributed
def test_every_decision_weighs_the_same_whatever_its_rank(tmp_path: Path) -> None:
    gradient = moved(tmp_path, Ragged())
    torch.testing.assert_close(gradient, by_hand(DECISIONS), rtol=0, atol=1e-7)
    assert float(gradient.abs().max()) > 1e-3


@pytest.mark.distributed
def test_a_rank_without_decisions_goes_along(tmp_path: Path) -> None:
    torch.testing.assert_close(moved(tmp_path, Half()), by_hand((3, 0)), rtol=0, atol=1e-7)


class SaveMetrics(Callback):
    """Writes what the first rank has logged at the end."""

    def on_train_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        if trainer.is_global_zero:
            torch.save({name: float(value) for name, value in trainer.callback_metrics.items()}, self.file(trainer))

    @staticmethod
    def file(trainer: Trainer) -> str:
        return f"{trainer.default_root_dir}/metrics.pt"


@pytest.mark.distributed
def test_images_per_second_counts_the_images_of_all_ranks(tmp_path: Path) -> None:
    short = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 0, "callbacks": [SaveMetrics()]}
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo")
    lightning = trainer(tmp_path, devices=2, strategy=strategy, use_distributed_sampler=False, **short)
    lightning.fit(module(policy=GaussianPolicy(), reward=Color(0)), Prompts())
    metrics = torch.load(SaveMetrics.file(lightning))
    seconds = sum(value for name, value in metrics.items() if name.startswith("seconds/"))
    # Each of the two ranks draws four images of each of two prompts.
    assert metrics["images_per_second"] * seconds == pytest.approx(2 * 2 * 4, rel=1e-3)
