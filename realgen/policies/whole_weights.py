"""Weights that are sharded over ranks, as whole tensors under their plain names, and back."""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from realgen.parallel import reshard, whole


def plain_name(name: str) -> str:
    """Return a weight's name without the words that FSDP1's wrappers add to it.

    Example:
        >>> plain_name("policy.transformer._fsdp_wrapped_module.blocks.0._fsdp_wrapped_module.weight")
        'policy.transformer.blocks.0.weight'
    """
    return name.replace("_fsdp_wrapped_module.", "")


def gathered_weights(module: nn.Module, *, trained_only: bool) -> dict[str, Tensor]:
    """Return a module's weights by plain name, whole, on the CPU; every rank must call it.

    Args:
        module: Sharded or not.
        trained_only: Whether frozen weights and buffers are left out, so that a frozen host is never gathered.

    Returns:
        Copies, the same on every rank.
    """
    reshard(module)
    if trained_only:
        weights = {name: p for name, p in module.named_parameters() if p.requires_grad}
    else:
        weights = module.state_dict()
    return {plain_name(name): whole(weight.detach()).to("cpu", copy=True) for name, weight in weights.items()}


def placed_like(tensor: Tensor, reference: Tensor) -> Tensor:
    """Put a whole tensor where ``reference`` lives: same device, and the same shards if it is sharded.

    Args:
        tensor: Whole tensor, the same on all ranks.
        reference: Parameter or tensor that shows where to.

    Returns:
        A new tensor that shares no memory with ``tensor``.
    """
    moved = tensor.detach().to(reference.device, copy=True)
    if isinstance(reference, DTensor):
        # Shards that are offloaded lie elsewhere than their mesh computes.
        return distribute_tensor(moved, reference.device_mesh, reference.placements).to(reference.device)
    return moved
