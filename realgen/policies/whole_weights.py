"""Weights that are sharded over ranks, as whole tensors, and back."""

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from realgen.parallel import reshard, whole


def gathered_weights(module: nn.Module, *, trained_only: bool, keep: bool = True) -> dict[str, Tensor]:
    """Return copies of a module's weights by name, whole, on the CPU; every rank must call it.

    With ``trained_only``, frozen weights and buffers are left out, so that a frozen host is never gathered. A rank that
    does not ``keep`` them gets none, and only helps to gather one weight at a time.
    """
    reshard(module)
    if trained_only:
        weights = {name: p for name, p in module.named_parameters() if p.requires_grad}
    else:
        weights = module.state_dict()
    gathered = ((name, whole(weight.detach())) for name, weight in weights.items())
    return {name: weight.to("cpu", copy=True) for name, weight in gathered if keep}


def placed_like(tensor: Tensor, reference: Tensor) -> Tensor:
    """Copy a whole tensor, the same on all ranks, to where ``reference`` lives: device, and shards if it is sharded."""
    moved = tensor.detach().to(reference.device, copy=True)
    if isinstance(reference, DTensor):
        # Shards that are offloaded lie elsewhere than their mesh computes.
        return distribute_tensor(moved, reference.device_mesh, reference.placements).to(reference.device)
    return moved
