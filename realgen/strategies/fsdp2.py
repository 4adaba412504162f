"""Fully sharded data parallel by ``fully_shard`` (FSDP2): each weight is split over the ranks by itself."""

from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from realgen.policies.base import Policy
from realgen.strategies.base import ShardedStrategy, blocks_of, networks_of, policies_of


class FSDP2(ShardedStrategy):
    """Shards a policy block by block; a frozen base in bfloat16 and its float32 adapters keep their types.

    The weights of a block are gathered from all ranks before its call, each in its own type, and freed after it, so the
    result equals that of one device, and the ratio of the first update is 1. Gradients are averaged in float32.
    ``gradient_checkpointing`` of the policy works with it. Each rank reads the whole policy onto its CPU before it is
    sharded.

    Args:
        ranks_per_copy: Ranks that hold one copy of the weights together, such as the GPUs of a node: between copies go
            only gradients. Must divide the number of ranks; ``null``: all of them.
        reshard_after_forward: Free a block's gathered weights after each call. False keeps those of the whole policy
            until the next update: no gathering in a rollout but the first, for the memory of the whole policy.
        cpu_offload: Keep the shards, gradients and optimizer on the CPU, and copy each block to the GPU for its calls.
            For diffusion policies.
        **settings: Of ``ShardedStrategy``.
    """

    def __init__(
        self,
        *,
        ranks_per_copy: int | None = None,
        reshard_after_forward: bool = True,
        cpu_offload: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.ranks_per_copy = ranks_per_copy
        self.reshard_after_forward = reshard_after_forward
        self.cpu_offload = cpu_offload

    def check(self) -> None:
        """Check the arguments too; raise ValueError if ``ranks_per_copy`` does not divide the number of ranks."""
        super().check()
        ranks = self.num_nodes * self.num_processes
        if self.ranks_per_copy is not None and (self.ranks_per_copy < 1 or ranks % self.ranks_per_copy):
            raise ValueError(
                f"ranks_per_copy must divide the number of ranks, {ranks} (trainer.devices x trainer.num_nodes), got "
                f"{self.ranks_per_copy}."
            )

    def shard(self, policy: Policy) -> None:
        """Shard the blocks one by one, and what lies around them as one unit; ValueError if nothing can be sharded."""
        mesh = self._mesh()
        if self.cpu_offload and not all(hasattr(part, "backbone") for part in policies_of(policy)):
            raise ValueError(
                "cpu_offload is for diffusion policies: a language model writes token by token, and would copy all its "
                "weights to the GPU for each."
            )
        offload: OffloadPolicy = OffloadPolicy()
        if self.cpu_offload:
            offload = CPUOffloadPolicy(pin_memory=self.root_device.type == "cuda")
        trained = next(iter(policy.trainable_parameters().values())).dtype
        precision = MixedPrecisionPolicy(
            reduce_dtype=torch.promote_types(trained, torch.float32),
            cast_forward_inputs=False,  # True would round timesteps and latents to the type of the weights
        )
        # Without a value for the network around the blocks its weights would stay gathered after a call, and what is
        # then written to them (an average, a checkpoint) would be lost.
        for part in (*blocks_of(policy), *networks_of(policy)):
            fully_shard(
                part,
                mesh=mesh,
                reshard_after_forward=self.reshard_after_forward,
                mp_policy=precision,
                offload_policy=offload,
            )

    def model_to_device(self) -> None:
        """Move what is not sharded; shards that are offloaded stay on the CPU."""
        assert self.lightning_module is not None
        if self.cpu_offload:
            self.lightning_module._device = self.root_device
        else:
            super().model_to_device()

    def _mesh(self) -> DeviceMesh:
        kind, ranks = self.root_device.type, self.world_size
        size = ranks if self.ranks_per_copy is None else self.ranks_per_copy
        if size == ranks:
            return init_device_mesh(kind, (ranks,), mesh_dim_names=("shard",))
        mesh = init_device_mesh(kind, (ranks // size, size), mesh_dim_names=("copy", "shard"))
        for name in ("copy", "shard"):  # new groups have the backend's timeout
            mesh.get_group(name).set_timeout(self.timeout)
        return mesh

    def _get_process_group_backend(self) -> str:
        if self._process_group_backend is None and self.cpu_offload and self.root_device.type == "cuda":
            return "cpu:gloo,cuda:nccl"  # norms and checkpoints are reduced on the shards' device
        return super()._get_process_group_backend()
