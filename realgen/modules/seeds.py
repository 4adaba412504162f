"""Random streams that are pure functions of counters, so that a checkpoint needs no generator state."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch


def mix_seed(*counters: int) -> int:
    """Hash counters to one seed; nearby counters give unrelated seeds, on every machine the same.

    Args:
        counters: Integers of any size and sign; their order counts.

    Returns:
        A seed in [0, 2**63).

    Example:
        >>> mix_seed(0, 0, 1) == mix_seed(0, 0, 1), mix_seed(0, 1) == mix_seed(1, 0)
        (True, False)
    """
    digest = hashlib.sha256(",".join(str(int(counter)) for counter in counters).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def iteration_generator(seed: int, rank: int, iteration: int) -> torch.Generator:
    """The generator of one rank's GRPO iteration, on the CPU so that every device draws the same noise."""
    return torch.Generator().manual_seed(mix_seed(seed, rank, iteration))


def sample_seeds(seeds: Sequence[int], samples_per_prompt: int) -> list[int]:
    """Seeds of several validation samples of each prompt, prompt-major.

    Args:
        seeds: One seed per prompt.
        samples_per_prompt: Samples of each prompt; the first one keeps the prompt's own seed.

    Returns:
        ``len(seeds) * samples_per_prompt`` seeds in [0, 2**63).

    Example:
        >>> sample_seeds([7, 8], 1)
        [7, 8]
        >>> len(set(sample_seeds([7, 8], 3)))
        6
    """
    return [seed if sample == 0 else mix_seed(seed, sample) for seed in seeds for sample in range(samples_per_prompt)]
