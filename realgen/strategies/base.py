"""The shared part of the strategies that shard a policy: process group, set-up and checkpoints."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.strategy import Strategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.optim import Optimizer

from realgen.parallel import is_sharded, reshard
from realgen.policies.base import Policy
from realgen.policies.whole_weights import placed_like
from realgen.strategies.checkpoint import gathered, placed_state, read_folder, template_like, write_folder

SINGLE_TYPES = ("bf16-true", "16-true")
"""Precisions of the trainer that turn every weight into a low one."""


class ShardedStrategy(ModelParallelStrategy):
    """Shard the networks of a GRPO module's policy; everything else is on every rank.

    Each rank draws its own prompts and noise, and all hold equal weights. Ranks must make the same number of calls of a
    sharded network, which the modules and policies take care of.

    Args:
        sharded_checkpoints: Write a folder with each rank's shards of the trained weights and the optimizer, which any
            number of ranks resumes; False gathers them into one file, which every strategy resumes.
        timeout_minutes: How long a rank waits for another one before the run ends with an error, > 0.
        process_group_backend: Of ``torch.distributed``; ``null``: nccl for GPUs (with gloo for ``cpu_offload``), else
            gloo.
    """

    def __init__(
        self,
        *,
        sharded_checkpoints: bool = True,
        timeout_minutes: float = 30.0,
        process_group_backend: str | None = None,
    ) -> None:
        super().__init__(save_distributed_checkpoint=sharded_checkpoints, process_group_backend=process_group_backend)
        self.timeout_minutes = timeout_minutes
        self.sharded_checkpoints = sharded_checkpoints

    @abstractmethod
    def shard(self, policy: Policy) -> None:
        """Shard the policy's networks; they are on the CPU, whole and equal on all ranks."""

    @property
    def timeout(self) -> timedelta:
        """Return how long a rank waits for another one."""
        return timedelta(minutes=self.timeout_minutes)

    @property
    def policy(self) -> Policy:
        """Return the module's policy; raise ValueError if it has none."""
        policy = getattr(self.lightning_module, "policy", None)
        if not isinstance(policy, Policy):
            raise ValueError(
                f"trainer.strategy: {type(self).__name__} shards a policy, and {type(self.lightning_module).__name__} "
                "has none. Take ddp."
            )
        return policy

    def check(self) -> None:
        """Check the arguments' ranges and the trainer's precision.

        Not in the constructor: ``trainer.strategy`` may be a text too, and jsonargparse would report only why the value
        is no text.

        Raises:
            ValueError: If ``timeout_minutes`` is not above 0, or the trainer's precision rounds the trained weights.
        """
        if not 0 < self.timeout_minutes < math.inf:
            raise ValueError(f"timeout_minutes must be above 0 and finite, got {self.timeout_minutes}.")
        precision = self.precision_plugin.precision
        if precision in SINGLE_TYPES:
            raise ValueError(
                f"trainer.precision must leave the trained weights as they are, got {precision}, which would round "
                "float32 adapters. Set the dtype of the policy's frozen weights, and leave trainer.precision at "
                "32-true (or bf16-mixed for autocast)."
            )

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Let Lightning restore the optimizers' states, after the module has checked the checkpoint."""
        return True

    def setup_environment(self) -> None:
        """Join the process group; all ranks are data-parallel."""
        self._timeout = self.timeout
        self._data_parallel_size = self.num_nodes * self.num_processes
        self._tensor_parallel_size = 1
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Shard the policy, then make its shards' optimizers, before each fit or validation, or raise ValueError."""
        assert self.model is not None
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        policy = self.policy
        if not is_sharded(policy):
            check_types(policy)
            self.shard(policy)
        self.model_to_device()
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the trained weights by name, as shards or, on the first rank alone, whole."""
        assert self.lightning_module is not None
        weights: dict[str, Any] = {name: weight.detach() for name, weight in self._trained().items()}
        return weights if self.sharded_checkpoints else gathered(weights, keep=self.is_global_zero)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return an optimizer's state with its moments, as shards or, on the first rank alone, whole."""
        state = optimizer.state_dict()
        return state if self.sharded_checkpoints else gathered(state, keep=self.is_global_zero)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint, or a folder with ``sharded_checkpoints``, at rank 0's path; every rank must call it.

        Raises:
            TypeError: If there are ``storage_options``.
        """
        if storage_options is not None:
            raise TypeError(f"{type(self).__name__} has no storage_options.")
        path = Path(self.broadcast(filepath))
        if self.sharded_checkpoints:
            write_folder(checkpoint, path, first=self.is_global_zero)
        else:
            for kind in ("callbacks", "lagged"):
                if kind in checkpoint:
                    checkpoint[kind] = gathered(checkpoint[kind], keep=self.is_global_zero)
            Strategy.save_checkpoint(self, checkpoint, path)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Return a checkpoint, of whole tensors or shards, that any number of ranks wrote; every rank must call it.

        ``weights_only`` is for a file; a folder's ``meta.pt`` is always read so. All ranks use the first rank's path.
        """
        path = Path(self.broadcast(checkpoint_path))
        if not path.is_dir():
            return Strategy.load_checkpoint(self, path, weights_only)
        return read_folder(path, template_like(self._trained(), self.optimizers))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Copy a checkpoint's weights into the trained ones; the module has checked that their names are the same."""
        weights = self._trained()
        with torch.no_grad():
            for name, value in checkpoint["state_dict"].items():
                weight = weights[name]
                weight.copy_(value if type(value) is type(weight.data) else placed_like(value, weight))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Give each optimizer its state, with the moments on the weights' devices."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(placed_state(state, optimizer))

    def _configure_launcher(self) -> None:
        """Check the arguments: Lightning calls this when all settings are known and no process is started yet."""
        self.check()
        super()._configure_launcher()

    def _trained(self) -> dict[str, nn.Parameter]:
        module: LightningModule | None = self.lightning_module
        assert module is not None
        reshard(module)
        return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}


def check_types(policy: Policy) -> None:
    """Raise ValueError if the trained weights have several types, as their gradients are reduced together."""
    kinds = {weight.dtype: name for name, weight in policy.trainable_parameters().items()}
    if len(kinds) > 1:
        found = ", ".join(f"{dtype} ({name})" for dtype, name in kinds.items())
        raise ValueError(
            f"the trained weights must all be of one type, got {found}; their gradients are reduced as one."
        )


def policies_of(policy: Policy) -> Iterator[Policy]:
    """Yield a policy, or the policies inside one that trains several."""
    inner = [child for child in policy.children() if isinstance(child, Policy)]
    if not inner:
        yield policy
    for child in inner:
        yield from policies_of(child)


def networks_of(policy: Policy) -> list[nn.Module]:
    """Return the networks in a policy's state dict, with the frozen base of adapters; ValueError if there is none."""
    networks = [network for part in policies_of(policy) for network in part.children()]
    if not networks:
        raise ValueError(f"policy {type(policy).__name__} has no network to shard; train it with ddp.")
    return networks


def blocks_of(policy: Policy) -> list[nn.Module]:
    """Return the blocks of a policy's networks, each a unit of sharding; ValueError if a policy names none."""
    blocks: list[nn.Module] = []
    for part in policies_of(policy):
        backbone: Any = getattr(part, "backbone", None)
        own = [
            layer  # of those that a model of transformers declares as not to be split
            for network in part.children()
            for layer in network.modules()
            if type(layer).__name__ in (getattr(network, "_no_split_modules", None) or ())
        ]
        found = own if backbone is None else backbone.blocks()
        if not found:
            raise ValueError(f"policy {type(part).__name__} names no blocks to shard; train it with ddp.")
        blocks += found
    return blocks
