from __future__ import annotations

import hashlib

import torch

from realgen.modules.seeds import iteration_generator, mix_seed


def test_mix_seed_is_the_first_63_bits_of_sha256() -> None:
    assert mix_seed(3, 14) == int(hashlib.sha256(b"3,14").hexdigest()[:16], 16) // 2


def test_every_rank_and_iteration_draws_its_own_numbers() -> None:
    keys = [(seed, rank, iteration) for seed in range(2) for rank in range(3) for iteration in range(4)]
    draws = {tuple(torch.randn(2, generator=iteration_generator(*key)).tolist()) for key in keys}
    assert len(draws) == len(keys)
