"""A policy that two gloo processes train equals one process with the same global batch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from realgen.modules import GRPOModule
from realgen.modules.policy_update import PolicyUpdate
from realgen.modules.seeds import iteration_generator
from realgen.parallel import gather_first_axis, is_sharded
from realgen.strategies import FSDP2
from tests.strategies.ranks import EPS, GROUP, LR, MICROBATCH, NORM, fit, make_module, make_policy, on_ranks, prompts_of

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
TOLERANCE = 1e-6
FILE = "pytorch_lora_weights.safetensors"
ITERATIONS = 3


def in_one_piece(directory: str, export: Path, **settings: Any) -> list[dict[str, Any]]:
    """Three updates of one policy in one process, on the rollouts of two ranks, written out without the module."""
    policy = make_policy(directory, **settings)
    module = make_module(policy)
    policy.load()
    weights = policy.trainable_parameters()
    optimizer = torch.optim.AdamW(list(weights.values()), lr=LR, eps=EPS)
    averages = {name: weight.detach().clone() for name, weight in weights.items()}
    steps = []
    for iteration in range(ITERATIONS):
        losses, gradients = zip(*(one_rank(module, rank, iteration) for rank in (0, 1)), strict=True)
        gradient = {name: (gradients[0][name] + gradients[1][name]) / 2 for name in weights}
        for name, weight in weights.items():
            weight.grad = gradient[name].clone()
        norm = torch.nn.utils.clip_grad_norm_(list(weights.values()), NORM)
        assert norm > NORM
        optimizer.step()
        after = {name: weight.detach().clone() for name, weight in weights.items()}
        averages = {name: (averages[name] + after[name]) / 2 for name in after}
        values = {"norm": float(norm), **{name: (losses[0][name] + losses[1][name]) / 2 for name in losses[0]}}
        steps.append({"values": values, "gradient": gradient, "weights": after})
    policy.export(export / "live")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(averages[name])
    policy.export(export / "averaged")
    return steps


def one_rank(module: GRPOModule, rank: int, iteration: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Losses and gradient of one rank's share of the global batch."""
    policy, rows = module.policy, torch.arange(2 * GROUP)
    generator = iteration_generator(0, rank, iteration)
    rollout = policy.rollout(prompts_of(iteration, rank, 2).prompts, GROUP, generator=generator)
    advantages = module.objective.advantages(module.reward(rollout.samples())).flatten()
    with torch.no_grad(), policy.reference():
        reference = policy.score(rollout, rows)
    update = PolicyUpdate(policy, module.objective, rollout, advantages, reference, **module.update_settings)
    policy.zero_grad()
    means: Counter[str] = Counter()
    for part in torch.randperm(len(rows), generator=generator).split(MICROBATCH):
        score = policy.score(rollout, part)
        loss, values = module.objective.loss(score, update.minibatch(part, score))
        share = len(part) / len(rows)
        (loss * share).backward()
        means.update({name: share * float(values[name]) for name in ("policy_loss", "kl")})
    return dict(means), {name: weight.grad.clone() for name, weight in policy.trainable_parameters().items()}


def train(rank: int, directory: str, folder: Path, strategy: Any, settings: dict[str, Any]) -> None:
    record, lightning, module = fit(folder, make_policy(directory, **settings), strategy=strategy)
    assert lightning.world_size == 2
    assert is_sharded(module.policy) == (strategy != "ddp")
    mine = torch.cat([weight.flatten() for weight in record.steps[-1]["weights"].values()])
    left, right = gather_first_axis(mine[None])
    assert torch.equal(left, right)
    module.policy.export(folder / "live")
    if rank == 0:
        torch.save(record.steps, folder / "steps.pt")


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Of all weights together, relative to their size."""
    assert found.keys() == expected.keys()
    one, other = (torch.cat([each[name].flatten() for name in expected]) for each in (found, expected))
    return float((one - other).norm() / other.norm())


def assert_equal(
    folder: Path, expected: list[dict[str, Any]], tolerance: float = TOLERANCE, on_policy: float = 0.0
) -> None:
    steps = torch.load(folder / "steps.pt", weights_only=True)
    assert len(steps) == ITERATIONS
    for found, truth in zip(steps, expected, strict=True):
        values = found["values"]
        # Of rows whose losses are as large as their advantages, about 1.
        assert values["objective/policy_loss"] == pytest.approx(truth["values"]["policy_loss"], rel=0, abs=tolerance)
        assert values["objective/kl"] == pytest.approx(truth["values"]["kl"], rel=10 * tolerance, abs=1e-12)
        assert values["grad_norm"] == pytest.approx(truth["values"]["norm"], rel=tolerance)
        assert values["ratio/on_policy_deviation"] <= on_policy
        assert distance(found["gradient"], truth["gradient"]) < tolerance
        assert distance(found["weights"], truth["weights"]) < tolerance
    assert expected[1]["values"]["kl"] > 1e-6  # the reference is another policy by then


@pytest.fixture(scope="module")
def adapters(sd3: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    """Adapters trained in one piece: each step, and where they were exported."""
    folder = tmp_path_factory.mktemp("whole")
    return in_one_piece(sd3, folder), folder


STRATEGIES = {
    "fsdp2": FSDP2(),
    "copies": FSDP2(ranks_per_copy=1, reshard_after_forward=False),
    "ddp": "ddp",
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_adapters_equal_those_trained_in_one_piece(
    adapters: tuple[list[dict[str, Any]], Path], sd3: str, tmp_path: Path, name: str
) -> None:
    assert on_ranks(train, sd3, tmp_path, STRATEGIES[name], {}) == [0, 0]
    steps, exported = adapters
    assert_equal(tmp_path, steps)
    assert distance(load_file(tmp_path / "live" / FILE), load_file(exported / "live" / FILE)) < TOLERANCE
    assert distance(load_file(tmp_path / "lora" / FILE), load_file(exported / "averaged" / FILE)) < TOLERANCE


def test_low_precision_hosts_recomputed_and_offloaded_change_nothing(sd3: str, tmp_path: Path) -> None:
    settings = {"dtype": "bfloat16"}
    steps = in_one_piece(sd3, tmp_path / "whole", **settings)
    settings["gradient_checkpointing"] = True
    assert on_ranks(train, sd3, tmp_path, FSDP2(cpu_offload=True), settings) == [0, 0]
    assert_equal(tmp_path, steps)
