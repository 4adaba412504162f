"""Random streams that are pure functions of counters, so that a checkpoint needs no generator state."""

import hashlib

import torch


def mix_seed(*counters: int) -> int:
    """Hash counters, integers in order, to one seed in [0, 2**63), unrelated for near ones, the same everywhere."""
    digest = hashlib.sha256(",".join(str(int(counter)) for counter in counters).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def iteration_generator(seed: int, rank: int, iteration: int) -> torch.Generator:
    """The generator of one rank's GRPO iteration, on the CPU so that every device draws the same noise."""
    return torch.Generator().manual_seed(mix_seed(seed, rank, iteration))
