"""What a policy in bfloat16 multiplies: its matrix products, counted by the types of their factors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from realgen.functional.flow_sde import FlowSDE
from realgen.policies import DiffusionPolicy, LoRA, RandomWindow
from realgen.policies.backbones import Backbone
from tests.helpers.tiny_pipelines import SIZE


class Products(TorchDispatchMode):
    """Counts products, convolutions and attention by the type of their first factor."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in flop_registry:
            self.seen[next(leaf.dtype for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor))] += 1
        return func(*args, **kwargs or {})


def make_policy(backbone: Backbone, **settings: Any) -> DiffusionPolicy:
    policy = DiffusionPolicy(
        backbone,
        transition=FlowSDE(0.9),
        step_window=RandomWindow(2, start_max=1),
        num_steps=4,
        height=SIZE,
        width=SIZE,
        lora=LoRA(rank=4, alpha=8.0),
        **settings,
    )
    policy.load()
    return policy


def test_a_policy_in_bfloat16_has_no_product_in_float32_but_its_vaes(make: Callable[..., Backbone]) -> None:
    policy = make_policy(make(load=False, guided=True, dtype="bfloat16"), gradient_checkpointing=True)
    with torch.no_grad(), Products() as decoding:
        policy.backbone.decode(torch.randn(2, *policy.latent_shape))
    assert decoding.seen.keys() == {torch.float32}
    rows = torch.tensor([0, 1])
    with Products() as sampling:
        rollout = policy.rollout(["a red fox"], 2, generator=torch.Generator().manual_seed(0))
    with Products() as updating:
        with torch.no_grad(), policy.reference():
            policy.score(rollout, rows)
        policy.score(rollout, rows).log_probs.sum().backward()
    assert sampling.seen[torch.float32] == decoding.seen[torch.float32]
    assert sampling.seen[torch.bfloat16] > 0
    assert updating.seen.keys() == {torch.bfloat16}
    for name, parameter in policy.trainable_parameters().items():  # at rest they are float32, so small steps count
        assert (parameter.dtype, name) == (torch.float32, name)
        assert parameter.grad is None or parameter.grad.dtype == torch.float32
