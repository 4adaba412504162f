"""What the code needs to know about ranks, shards and devices. With one process no helper of ranks does anything."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

EVERYWHERE = "realgen_on_all_ranks"


def world_size() -> int:
    """Return the number of processes that train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_first_axis(tensor: Shaped[Tensor, "first *rest"]) -> Shaped[Tensor, "all *rest"]:
    """Concatenate all ranks' tensors, small and of one shape, in rank order along the first axis, on every rank."""
    if world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def max_over_ranks(value: Tensor) -> Tensor:
    """Return the largest of one scalar per rank, the same on every rank; NaN if any rank has NaN."""
    return gather_first_axis(value.detach().reshape(1)).max()


def any_rank(flag: bool, device: torch.device) -> bool:
    """Return whether the flag is set on at least one rank; every rank gets the same answer."""
    return bool(max_over_ranks(torch.tensor(float(flag), device=device)))


@contextmanager
def together(device: torch.device) -> Iterator[None]:
    """Raise on all ranks if the body raises on one of them, so that none waits for it; all ranks must come here."""
    error: Exception | None = None
    try:
        yield
    except Exception as caught:  # raised again below
        error = caught
    if any_rank(error is not None, device):
        error = error or RuntimeError("another rank failed; its message says why.")
        setattr(error, EVERYWHERE, True)
        raise error


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; from the CPU to a GPU without waiting for the work that the GPU still has to do."""
    if tensor.device.type == "cpu" and device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def is_sharded(module: nn.Module) -> bool:
    """Return whether FSDP shards a part of the module, so that all ranks must make the same forward calls."""
    return any(isinstance(part, FSDPModule) for part in module.modules())


@contextmanager
def gradient_sync(model: nn.Module, *, enabled: bool) -> Iterator[None]:
    """Let backward passes inside average gradients over the ranks, or only accumulate them locally.

    The model is as the strategy wrapped it (DDP), or has sharded parts inside (FSDP2). ``enabled`` for the last
    backward pass before an update.
    """
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.set_requires_gradient_sync(enabled, recurse=False)
    with model.no_sync() if isinstance(model, DistributedDataParallel) and not enabled else nullcontext():
        yield


def reshard(module: nn.Module) -> None:
    """Free gathered copies of sharded weights, which ``parameters()`` would give in place of the shards."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def local_part(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a sharded tensor; a plain tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return the full tensor of a sharded one, gathered on every rank; a plain tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def compute_device(tensor: Tensor) -> torch.device:
    """Return where a weight is used: its own device, or for shards offloaded to the CPU that of their mesh."""
    if isinstance(tensor, DTensor) and tensor.device_mesh.device_type == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return tensor.device


def autocast_without_cache(device_type: str) -> torch.autocast:
    """Continue the surrounding autocast, if any, without its cache of cast weights.

    The cache lives as long as the outermost context, which is a whole training step: weights that were cast before an
    optimizer step would still serve after it.
    """
    return torch.autocast(
        device_type,
        dtype=torch.get_autocast_dtype(device_type),
        enabled=torch.is_autocast_enabled(device_type),
        cache_enabled=False,
    )
