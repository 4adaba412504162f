from __future__ import annotations

import hashlib
import itertools

import pytest

from realgen.data import prompt_indices, prompt_seed, validation_rows


def deal(iteration: int, *, rank: int = 0, world_size: int = 1, seed: int = 0, num_prompts: int = 24) -> list[int]:
    return prompt_indices(iteration, num_prompts=num_prompts, per_rank=3, seed=seed, rank=rank, world_size=world_size)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_epochs_are_permutations_over_all_ranks(world_size: int) -> None:
    iterations = 24 // (3 * world_size)
    for epoch in range(3):
        numbers = [
            number
            for i in range(epoch * iterations, (epoch + 1) * iterations)
            for rank in range(world_size)
            for number in deal(i, rank=rank, world_size=world_size)
        ]
        assert sorted(numbers) == list(range(24))


def test_epochs_are_permutations_when_iterations_do_not_divide_them() -> None:
    numbers = [n for i in range(7) for rank in range(2) for n in deal(i, rank=rank, world_size=2, num_prompts=7)]
    epochs = [numbers[start : start + 7] for start in range(0, 42, 7)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 6


def test_ranks_are_disjoint_within_an_iteration() -> None:
    parts = [set(deal(1, rank=rank, world_size=4)) for rank in range(4)]
    assert all(len(part) == 3 for part in parts)
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(parts, 2))


def test_number_of_ranks_only_cuts_the_same_order_differently() -> None:
    one = [number for i in range(4) for number in deal(i)]
    two = [number for i in range(2) for rank in range(2) for number in deal(i, rank=rank, world_size=2)]
    assert one == two


def test_order_depends_on_seed_and_epoch_and_nothing_else() -> None:
    def epoch(number: int, seed: int) -> list[int]:
        return [n for i in range(8) for n in deal(8 * number + i, seed=seed)]

    assert epoch(0, 0) == epoch(0, 0)
    # Pairs of equal sum: a generator seeded with seed + epoch would repeat them.
    orders = [tuple(epoch(number, seed)) for number, seed in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (0, 2)]]
    assert len(set(orders)) == 6


@pytest.mark.parametrize(("num_prompts", "world_size"), [(8, 4), (7, 4), (1, 4), (5, 1)])
def test_validation_counts_every_prompt_once_and_keeps_ranks_in_step(num_prompts: int, world_size: int) -> None:
    ranks = [validation_rows(num_prompts, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert len({len(rows) for rows in ranks}) == 1
    assert sorted(row for rows in ranks for row, counts in rows if counts) == list(range(num_prompts))
    assert all(0 <= row < num_prompts for rows in ranks for row, _ in rows)
    assert all(row % world_size == rank for rank, rows in enumerate(ranks) for row, counts in rows if counts)


def test_prompt_seed_is_the_head_of_sha256_and_tells_keys_apart() -> None:
    assert f"{prompt_seed('7', 'Katze'):08x}" == hashlib.sha256(b"7\nKatze").hexdigest()[:8]
    assert len({prompt_seed(key, prompt) for key in ("0", "1") for prompt in ("a cat", "a dog")}) == 4
