"""A policy whose log-probabilities have a closed form, rewards that read its images, and a trainer for both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor, nn

from realgen.metrics import ImageMetric
from realgen.modules import GRPOModule
from realgen.modules.policy_update import PolicyUpdate
from realgen.modules.seeds import iteration_generator
from realgen.objectives import GRPO
from realgen.policies.base import Policy
from realgen.rewards import WeightedSum
from realgen.rewards.base import Reward
from realgen.types import Gaussian, PolicyScore, PromptBatch, Rollout, Samples


class GaussianPolicy(Policy):
    """Decision s draws x_s ~ N(W c + b, std^2) in 2-D, c = (1, number of the prompt's letters / 10).

    The image's red and green are sigmoid(mean of x over decisions). ``fault`` may break ``score``:
    "conditioning" sees another prompt, "random" adds noise, "nan" gives NaN.
    """

    score_fields = frozenset({"gaussian"})

    def __init__(
        self,
        decisions: int = 3,
        std: float = 0.5,
        dtype: torch.dtype = torch.float32,
        stored: torch.dtype | None = None,
        dropout: float = 0.0,
        fault: str = "",
    ) -> None:
        super().__init__()
        self.decisions, self.std, self.dtype, self.stored = decisions, std, dtype, stored or dtype
        self.dropout = nn.Dropout(dropout)
        self.fault = fault
        self.loads = self.references = self.scored_rows = 0
        self.iterations: list[int] = []
        self.on_reference = False

    def load(self) -> None:
        if self.loads:
            return
        self.loads += 1
        self.weight = nn.Parameter(torch.tensor([[0.1, -0.2], [0.3, 0.05]], dtype=self.dtype))
        self.bias = nn.Parameter(torch.zeros(2, dtype=self.dtype))
        self.frozen = nn.Parameter(torch.ones(2, dtype=self.dtype), requires_grad=False)

    def mean(self, prompts: Sequence[str]) -> Tensor:
        letters = [len(prompt) + 5 * (self.fault == "conditioning" and self.scoring) for prompt in prompts]
        c = torch.tensor([[1.0, n / 10] for n in letters], dtype=self.dtype, device=self.device)
        start = torch.tensor([[0.1, -0.2], [0.3, 0.05]], dtype=self.dtype, device=self.device)
        weight, bias = (start, 0 * self.bias) if self.on_reference else (self.weight, self.bias)
        mean = self.dropout((c @ weight.T + bias) * self.frozen)
        return mean + 0.01 * torch.randn_like(mean) if self.fault == "random" else mean

    scoring = False

    def describe(self, x: Tensor, mean: Tensor) -> PolicyScore:
        mean = mean[:, None].expand_as(x)
        std = torch.full(x.shape[:2], self.std, dtype=x.dtype, device=x.device)
        log_probs = (-((x - mean) ** 2) / (2 * self.std**2) - math.log(self.std * math.sqrt(2 * math.pi))).mean(-1)
        return PolicyScore(log_probs, Gaussian(mean, std, torch.ones_like(std), x, std.mean(1)))

    def rollout_chunks(
        self,
        prompts: Sequence[str],
        group_size: int,
        *,
        generator: torch.Generator,
        iteration: int = 0,
        progress: Any = None,
    ) -> Iterator[Rollout]:
        self.iterations.append(iteration)
        yield self.roll(prompts, group_size, generator)

    @torch.no_grad()
    def roll(self, prompts: Sequence[str], group_size: int, generator: torch.Generator) -> Rollout:
        self.scoring = False
        rows = [prompt for prompt in prompts for _ in range(group_size)]
        noise = torch.randn(len(rows), self.decisions, 2, generator=generator, dtype=self.dtype).to(self.device)
        x = (self.mean(rows)[:, None] + self.std * noise).to(self.stored)
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        sampled = self.describe(x.to(self.dtype), self.mean(rows))
        if self.stored != self.dtype:  # the published bug: the log-prob is taken before rounding
            sampled = self.describe(self.mean(rows)[:, None] + self.std * noise, self.mean(rows))
        return Rollout(tuple(prompts), group_size, self.draw(x), sampled, mask, {"x": x})

    def score(self, rollout: Rollout, rows: Tensor) -> PolicyScore:
        self.scoring = True
        self.scored_rows += len(rows)
        prompts = rollout.row_prompts
        mean = self.mean([prompts[row] for row in rows.tolist()])
        score = self.describe(rollout.policy_state["x"][rows].to(self.dtype), mean)
        return PolicyScore(score.log_probs * math.nan) if self.fault == "nan" else score

    @contextmanager
    def reference(self) -> Iterator[None]:
        self.references += 1
        self.on_reference = True
        yield
        self.on_reference = False

    @torch.no_grad()
    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, progress: Any = None) -> Tensor:
        noise = [torch.randn(1, 2, generator=torch.Generator().manual_seed(s), dtype=self.dtype) for s in seeds]
        return self.draw(self.mean(prompts)[:, None] + self.std * torch.stack(noise).to(self.device))

    def draw(self, x: Tensor) -> Tensor:
        colors = torch.sigmoid(x.float().mean(1))
        return torch.cat([colors, torch.full_like(colors[:, :1], 0.5)], 1)[:, :, None, None].expand(-1, -1, 8, 8)

    def export(self, directory: Path) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        torch.save({name: p.detach().clone() for name, p in self.trainable_parameters().items()}, directory / "w.pt")
        (directory / "pytorch_lora_weights.safetensors").touch()
        return directory


class Color(Reward):
    """Mean of one channel; NaN for the rows that ``failing`` names."""

    def __init__(self, channel: int, failing: Sequence[int] = (), constant: bool = False) -> None:
        self.channel, self.failing, self.constant = channel, list(failing), constant

    def score(self, samples: Samples) -> Tensor:
        scores = samples.images[:, self.channel].mean((1, 2)).clone()
        if self.constant:
            scores[:] = 0.3
        scores[self.failing] = torch.nan
        return scores


class MeanBlue(ImageMetric):
    """Mean of the third channel."""

    higher_is_better = False

    def describe(self, images: Tensor) -> Tensor:
        return images[:, 2].mean((1, 2))

    def compute(self) -> Tensor:
        return self.seen("generated").mean()


PROMPTS = ("a", "a cat", "a red fox", "a green field", "the sea at dawn", "an old man reads")


def batch_of(numbers: Sequence[int], mask: Sequence[bool] | None = None) -> PromptBatch:
    prompts = tuple(PROMPTS[n % len(PROMPTS)] for n in numbers)
    return PromptBatch(
        prompts=prompts,
        keys=tuple(str(n) for n in numbers),
        metadata=({},) * len(prompts),
        seeds=tuple(100 + n for n in numbers),
        mask=torch.tensor([True] * len(prompts) if mask is None else list(mask)),
    )


class Prompts(LightningDataModule):
    """Two prompts per iteration, a function of the module's iteration; two validation batches, the last row padding."""

    def train_dataloader(self) -> Any:
        return _Endless(lambda: self.trainer.lightning_module.iteration)

    def val_dataloader(self) -> Any:
        return _Fixed()


class _Fixed:
    batches = (batch_of([0, 1]), batch_of([2, 2], mask=[True, False]))

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[PromptBatch]:
        return iter(self.batches)


class _Endless:
    def __init__(self, start: Any) -> None:
        self.start = start

    def __len__(self) -> int:
        return 10**9

    def __iter__(self) -> Iterator[PromptBatch]:
        iteration = self.start()
        while True:
            yield batch_of([2 * iteration, 2 * iteration + 1])
            iteration += 1


def module(**settings: Any) -> GRPOModule:
    defaults = {
        "policy": GaussianPolicy(),
        "reward": WeightedSum({"red": Color(0), "green": Color(1)}, {"green": 0.5}),
        "objective": GRPO(clip_low=0.2, clip_high=0.2, kl="k3"),
        "optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=0.05),
        "group_size": 4,
        "microbatch_size": 3,
    }
    return GRPOModule(**{**defaults, **settings})


def trainer(folder: Path, **settings: Any) -> Trainer:
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "default_root_dir": folder,
        "max_epochs": 2,
        "limit_train_batches": 2,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**{**defaults, **settings})


def naive_gradient(failing: Sequence[int] = (), rank: int = 0) -> Tensor:
    """Gradient of -mean(A ln p) over all decisions of iteration 0, by the formulas of the paper, in one pass."""
    policy = GaussianPolicy(dtype=torch.float64)
    policy.load()
    rollout = policy.rollout(PROMPTS[:2], 4, generator=iteration_generator(0, rank, 0))
    advantages = torch.zeros(2, 4, dtype=torch.float64)
    for channel, weight in ((0, 1.0), (1, 0.5)):
        rewards = rollout.images[:, channel, 0, 0].double().view(2, 4)
        for prompt in range(2):
            judged = [s for s in range(4) if prompt * 4 + s not in failing]
            group = rewards[prompt, judged]
            spread = ((group - group.mean()) ** 2).mean().sqrt()
            advantages[prompt, judged] += weight / 1.5 * (group - group.mean()) / (spread + 1e-4)
    loss = -(advantages.view(8, 1) * policy.score(rollout, torch.arange(8)).log_probs).mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(policy.trainable_parameters().values()))])


def update_of(policy: Policy, rollout: Rollout, *, tolerance: float = 1e-5) -> PolicyUpdate:
    """The update of a rollout that the policy has just sampled, every row with advantage 1."""
    settings = {"microbatch_size": 3, "tolerance": tolerance, "skip_zero_advantages": False}
    advantages = torch.ones(len(rollout.mask), dtype=rollout.sampled.log_probs.dtype)
    return PolicyUpdate(policy, GRPO(clip_low=0.2, clip_high=0.2), rollout, advantages, None, **settings)


def first_update(policy: Policy, *, tolerance: float = 1e-5, between: Any = None) -> PolicyUpdate:
    """Sample and take the gradients of the first update; ``between`` happens after the rollout."""
    policy.load()
    update = update_of(
        policy, policy.rollout(["a cat", "a red fox"], 2, generator=iteration_generator(0, 0, 0)), tolerance=tolerance
    )
    if between is not None:
        between(policy)
    update.gradients(torch.arange(4), policy, torch.Tensor.backward, first_update=True)
    return update
