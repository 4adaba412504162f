"""Blocks of every backbone as whole graphs, traced by PyTorch and run without a compiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from realgen.functional.flow_sde import FlowSDE
from realgen.policies import DiffusionPolicy, LoRA, RandomWindow
from realgen.policies.backbones import Backbone
from tests.helpers.tiny_pipelines import SIZE

TEXTS = ["a red fox", "an old harbour at dawn"]


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Of each graph that is traced, whether it holds complex tensors."""
    found: list[bool] = []

    def backend(module: Any, _: Any) -> Any:
        values = [node.meta.get("example_value") for node in module.graph.nodes]
        found.append(any(isinstance(value, torch.Tensor) and value.is_complex() for value in values))
        return module.forward

    def trace(block: Any, *, fullgraph: bool, options: Any) -> None:
        block._compiled_call_impl = torch.compile(block._call_impl, fullgraph=fullgraph, backend=backend)

    monkeypatch.setattr(nn.Module, "compile", trace)
    torch._dynamo.reset()
    yield found
    torch._dynamo.reset()


@pytest.mark.slow
def test_blocks_are_whole_graphs_whatever_the_text_and_the_rows(
    make: Callable[..., Backbone], kind: type[Backbone], graphs: list[bool]
) -> None:
    backbone = make(guided=True, dtype="bfloat16")
    for part in backbone.transformer.modules():  # one block of each kind
        if isinstance(part, nn.ModuleList) and any(part[0] is block for block in backbone.blocks()):
            del part[1:]
    policy = DiffusionPolicy(
        backbone,
        transition=FlowSDE(0.9),
        step_window=RandomWindow(1),
        num_steps=2,
        height=SIZE,
        width=SIZE,
        gradient_checkpointing=True,
        compile_blocks=True,
        lora=LoRA(rank=2, alpha=4.0),
    )
    policy.load()

    def score(*rows: int) -> None:
        policy.score(rollout, torch.tensor(rows)).log_probs.sum().backward()
        with torch.no_grad(), policy.reference():
            policy.score(rollout, torch.tensor(rows))

    for text in TEXTS:
        rollout = policy.rollout([text], 4, generator=torch.Generator().manual_seed(0))
        score(0, 1)
        score(0, 1, 2)
    traced = len(graphs)
    score(3, 1)  # other rows
    score(3, 2, 1, 0)  # and one row more
    assert len(graphs) == traced > 0
    assert all(graphs) == any(graphs) == (kind.__name__ in ("Lumina2", "QwenImage", "ZImage"))  # as the docstring says
