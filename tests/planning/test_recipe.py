"""How a trainer's strategy spreads a policy."""

from __future__ import annotations

from typing import Any

import pytest

from realgen.planning import Sharding, sharding_of


def fsdp2(**settings: Any) -> dict[str, Any]:
    return {"class_path": "realgen.strategies.FSDP2", "init_args": settings}


@pytest.mark.parametrize(
    ("strategy", "ranks", "expected"),
    [
        ("auto", 1, Sharding("no sharding", 1)),
        ("auto", 4, Sharding("DDP", 4, buckets=True)),
        ("ddp_spawn", 4, Sharding("DDP", 4, buckets=True)),
        (fsdp2(), 16, Sharding("FSDP2", 16, base=16, trained=16)),
        (
            fsdp2(ranks_per_copy=8, reshard_after_forward=False, cpu_offload=True),
            *(16, Sharding("FSDP2", 16, base=8, trained=8, keeps_gathered=True, offloads=True)),
        ),
    ],
)
def test_a_strategy_says_who_holds_what(strategy: Any, ranks: int, expected: Sharding) -> None:
    assert sharding_of(strategy, ranks) == expected


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("deepspeed", "a plan knows .*FSDP2.* got deepspeed"),
        (fsdp2(ranks_per_copy=3), "ranks_per_copy must divide the number of ranks, 8 .* got 3"),
    ],
)
def test_what_cannot_be_planned_is_refused(strategy: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sharding_of(strategy, 8)
