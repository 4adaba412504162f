"""Which rank gets which prompt in which iteration: pure functions, so that a resumed run needs its iteration alone."""

import hashlib
from functools import lru_cache

import torch
from torch import Tensor


def prompt_indices(
    iteration: int, *, num_prompts: int, per_rank: int, seed: int, rank: int, world_size: int
) -> list[int]:
    """Return the numbers of the prompts that one rank gets in one iteration.

    The epochs are endless permutations laid end to end; iteration i of all ranks together is the i-th piece of
    ``per_rank * world_size`` numbers, and rank r has the r-th part of the piece. So every prompt comes once per epoch,
    every rank gets the same number in every iteration, and nothing has to be remembered. An epoch that ends inside a
    piece goes over into the next: only there one iteration can hold a prompt twice. Iterations and ranks count from 0,
    there are at least ``per_rank * world_size`` prompts, and the seed chooses the permutations, with the epoch.
    """
    first = (iteration * world_size + rank) * per_rank
    places = (divmod(place, num_prompts) for place in range(first, first + per_rank))
    return [int(_permutation(num_prompts, seed, epoch)[within]) for epoch, within in places]


def validation_rows(num_prompts: int, *, rank: int, world_size: int) -> list[tuple[int, bool]]:
    """Return the numbers of the prompts that one rank validates: every ``world_size``-th from its own number on.

    Pairs (row, counts), as many on every rank. ``counts`` is True once for each prompt over all ranks; False marks a
    repetition that only keeps the ranks in step.
    """
    rows_per_rank = -(-num_prompts // world_size)
    places = range(rank, rows_per_rank * world_size, world_size)
    return [(place % num_prompts, place < num_prompts) for place in places]


def prompt_seed(key: str, prompt: str) -> int:
    """Hash a prompt into the seed of its validation image, the same on every machine and in every run.

    It is the first 32 bits of the SHA-256 of the sample's key in its shard, a newline and the prompt.
    """
    return int.from_bytes(hashlib.sha256(f"{key}\n{prompt}".encode()).digest()[:4], "big")


# Two, for the iteration in which one epoch goes over into the next.
@lru_cache(maxsize=2)
def _permutation(num_prompts: int, seed: int, epoch: int) -> Tensor:
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    return torch.randperm(num_prompts, generator=generator)
