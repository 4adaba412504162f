"""A language model, sharded or not, learns the same from two ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from realgen.objectives import GRPO
from realgen.policies import LoRA, PromptPolicy
from realgen.rewards.base import Reward
from realgen.strategies import FSDP2
from realgen.strategies.base import blocks_of
from tests.strategies.ranks import fit, on_ranks


class Spread(Reward):
    """Prefers completions of many different letters."""

    def score(self, samples: Samples) -> torch.Tensor:
        return torch.tensor([float(len(set(rewrite.completion))) for rewrite in samples.rewrites])


def make_rewriter(directory: str, lora: LoRA | None) -> PromptPolicy:
    return PromptPolicy(directory, instruction="{prompt}", max_tokens=6, score_batch_size=3, lora=lora)


def train(rank: int, directory: str, folder: Path, lora: LoRA | None) -> None:
    """Under each strategy in turn; ranks write texts of other lengths, and still must make the same calls."""
    kinds: dict[str, Any] = {"ddp": "ddp", "fsdp2": FSDP2()}
    ends = {}
    for name, strategy in kinds.items():
        record, _, _ = fit(
            folder / name,
            make_rewriter(directory, lora),
            strategy=strategy,
            iterations=2,
            exports=False,
            reward=Spread(),
            objective=GRPO(0.2, 0.28),
        )
        ends[name] = torch.cat([weight.flatten() for weight in record.steps[-1]["weights"].values()])
        assert record.steps[0]["values"]["ratio/on_policy_deviation"] == 0
        assert float(record.steps[0]["values"]["grad_norm"]) > 0
    for end in ends.values():
        assert float((end - ends["ddp"]).norm() / ends["ddp"].norm()) < 1e-6


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("lora", [LoRA(rank=2, alpha=8.0), None], ids=["adapters", "whole"])
def test_sharded_equals_ddp(nano: Path, tmp_path: Path, lora: LoRA | None) -> None:
    assert on_ranks(train, str(nano / "llm"), tmp_path, lora) == [0, 0]


def test_the_blocks_are_the_decoder_layers(nano: Path) -> None:
    policy = make_rewriter(str(nano / "llm"), None)
    policy.load()
    assert blocks_of(policy) == list(policy.model.model.layers)
