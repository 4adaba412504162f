"""Fully sharded data parallel by PyTorch's older wrapper (FSDP1), for adapters on a frozen base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.optim import Optimizer

from realgen.policies.base import Policy
from realgen.policies.whole_weights import plain_name
from realgen.strategies.base import ShardedStrategy, blocks_of, networks_of, policies_of


class FSDP1(ShardedStrategy):
    """Shards the frozen base, block by block; the adapters are whole on every rank, their gradients averaged.

    FSDP1 concatenates a block's weights into one flat tensor of one type, which a bfloat16 base and float32 adapters
    cannot share. Adapters are small; left whole, they are averaged, clipped, saved and exported as on one device. For
    adapters only (a policy with ``lora``). For everything else, and by default, take ``FSDP2``.

    Args:
        sharded_checkpoints: Write a folder, as ``FSDP2`` does; False writes one file. Each resumes the other's.
        **settings: Of ``ShardedStrategy``.
    """

    def __init__(self, *, sharded_checkpoints: bool = False, **settings: Any) -> None:
        super().__init__(sharded_checkpoints=sharded_checkpoints, **settings)

    def shard(self, policy: Policy) -> None:
        """Wrap the blocks one by one, then the networks, without their adapters; ValueError if a block is trained."""
        trained = list(policy.trainable_parameters().values())
        blocks = {id(block) for block in blocks_of(policy)}
        networks = networks_of(policy)
        for network in networks:
            if all(weight.requires_grad for weight in network.parameters()):
                raise ValueError(
                    f"FSDP1 trains adapters on a frozen base, and {type(policy).__name__} trains all of its "
                    f"{type(network).__name__}. Set the policy's lora, or take FSDP2."
                )
        settings: dict[str, Any] = {"device_id": self.root_device, "use_orig_params": True, "ignored_states": trained}
        for network in networks:
            for parent in list(network.modules()):
                for name, child in list(parent.named_children()):
                    if id(child) in blocks:
                        setattr(parent, name, FullyShardedDataParallel(child, **settings))
            _replace(policy, network, FullyShardedDataParallel(network, **settings))

    def optimizer_step(
        self, optimizer: Optimizer, closure: Callable[[], Any], model: nn.Module | None = None, **kwargs: Any
    ) -> Any:
        """Average the adapters' gradients over the ranks, then clip and step; return the optimizer's result."""
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        # One all-reduce for all of them: adapters are many small tensors.
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.world_size
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))
        return super().optimizer_step(optimizer, closure, model, **kwargs)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint in which weights have their plain names; every rank must call it."""
        super().save_checkpoint(_renamed(checkpoint, plain_name), filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, and rename its weights to the wrapped names; every rank must call it."""
        checkpoint = super().load_checkpoint(checkpoint_path, weights_only)
        full = {plain_name(name): name for name in self._trained()}
        inside = {name.removeprefix("policy."): full[name].removeprefix("policy.") for name in full}
        names = {**inside, **full}
        return _renamed(checkpoint, lambda name: names.get(name, name))


def _replace(policy: Policy, network: nn.Module, wrapped: nn.Module) -> None:
    """Replace a network by its wrapper in every policy and backbone that holds it."""
    for part in policies_of(policy):
        for name, child in list(part.named_children()):
            if child is network:
                setattr(part, name, wrapped)
        backbone: Any = getattr(part, "backbone", None)
        for name, value in list(vars(backbone).items()) if backbone is not None else ():
            if value is network:
                setattr(backbone, name, wrapped)


def _renamed(value: Any, rename: Callable[[str], str]) -> Any:
    """Rename the text keys of nested mappings."""
    if isinstance(value, dict):
        return {rename(k) if isinstance(k, str) else k: _renamed(child, rename) for k, child in value.items()}
    return [_renamed(child, rename) for child in value] if isinstance(value, list) else value
