"""Two gloo processes see what one process sees."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
from torch import distributed

from realgen.metrics import ColorDistance, Diversity

PROMPTS = ["a cat", "a dog", "a cat", "a dog", "a cat", "a cup"]


def update(metrics, photographs, rows: slice, valid: torch.Tensor | None = None) -> None:
    for metric in metrics:
        metric.update(photographs[:6][rows], prompts=PROMPTS[rows], real=photographs[6:12][rows], valid=valid)


def one_rank(rank: int, folder: Path, encoder, photographs) -> None:
    """Rank 0 sees four rows; rank 1 two rows, and a batch that is nothing but padding."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    metrics = ColorDistance(), Diversity(encoder)
    if rank == 0:
        update(metrics, photographs, slice(0, 2))
        update(metrics, photographs, slice(2, 4))
    else:
        update(metrics, photographs, slice(0, 2), valid=torch.zeros(2, dtype=torch.bool))
        update(metrics, photographs, slice(4, 6))
    values = torch.stack([*(metric.compute() for metric in metrics), *metrics[0].without_each()])
    torch.save((values, [len(torch.cat(metric.generated)) for metric in metrics]), folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.distributed
def test_two_ranks_equal_one(encoder, photographs, tmp_path):
    encoder.to("cpu")  # built before the fork
    context = multiprocessing.get_context("fork")  # no second import of everything
    ranks = [context.Process(target=one_rank, args=(rank, tmp_path, encoder, photographs)) for rank in (0, 1)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=60)
    exits = [rank.exitcode for rank in ranks]
    for rank in ranks:
        rank.kill()
    assert exits == [0, 0]

    metrics = ColorDistance(), Diversity(encoder)
    update(metrics, photographs, slice(0, 6))
    expected = torch.stack([*(metric.compute() for metric in metrics), *metrics[0].without_each()])
    assert len(expected) == 2 + 3  # three prompts are left out in turn
    for rank, rows in ((0, 4), (1, 2)):
        values, seen = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(values, expected)
        assert seen == [rows, rows]  # compute gave each rank its own states back
