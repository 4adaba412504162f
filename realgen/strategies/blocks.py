"""The parts of a policy that are sharded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from realgen.policies.base import Policy


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
