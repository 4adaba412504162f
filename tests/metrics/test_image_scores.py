"""Detector-Scoring by hand, and torchmetrics' guarantees for it."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import distributed

from realgen.metrics import DetectorScoring, ImageScores

PROMPTS = torch.tensor([0, 1, 2, 3, 4, 5])
CATEGORIES = torch.tensor([0, 0, 1, 1, 1, -1])


@pytest.fixture
def images():
    """Greys, of which the detector of these tests says p_fake = level."""
    return torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]).view(6, 1, 1, 1).expand(6, 3, 4, 4)


def batch(images, rows: slice) -> dict[str, torch.Tensor]:
    return {"images": images[rows], "prompts": PROMPTS[rows], "categories": CATEGORIES[rows]}


def flat(found) -> torch.Tensor:
    return torch.stack([torch.stack([part.float() for part in table]) for table in found])


def test_percent_by_hand(detector, images):
    metric = DetectorScoring(detector, 2)
    metric.update(**batch(images, slice(0, 6)))
    realism, judged_real = metric.compute()
    torch.testing.assert_close(realism.mean, torch.tensor([50.0, 90.0, 40.0]))
    torch.testing.assert_close(judged_real.mean, torch.tensor([50.0, 100.0, 100 / 3]))
    assert realism.number.tolist() == [6, 2, 3]
    assert bool((realism.low <= realism.mean).all())
    assert bool((realism.high >= realism.mean).all())
    for row, (yes, number) in enumerate([(3, 6), (2, 2), (1, 3)]):
        limits = stats.binomtest(yes, number).proportion_ci(method="wilson")
        shown = judged_real.low[row].item(), judged_real.high[row].item()
        assert shown == pytest.approx((100 * limits.low, 100 * limits.high), rel=1e-6)


def test_batches_ranks_order_and_padding_do_not_matter(detector, images):
    whole = DetectorScoring(detector, 2)
    whole.update(**batch(images, slice(0, 6)))
    expected = flat(whole.compute())
    ranks = DetectorScoring(detector, 2), DetectorScoring(detector, 2)
    ranks[0].update(**batch(images, slice(4, 6)))
    padded = batch(images, slice(0, 4))
    padded = {name: torch.cat([value, value[:1]]) for name, value in padded.items()}
    ranks[1].update(**padded, valid=torch.tensor([True] * 4 + [False]))
    ranks[0].merge_state(ranks[1])
    torch.testing.assert_close(flat(ranks[0].compute()), expected)


def test_clone_pickle_forward_and_reset(detector, images):
    metric = DetectorScoring(detector, 2)
    metric.update(**batch(images, slice(0, 6)))
    expected = flat(metric.compute())
    assert torch.equal(flat(pickle.loads(pickle.dumps(metric)).compute()), expected)
    assert torch.equal(flat(metric.clone().compute()), expected)
    metric.reset()
    half, _ = metric(**batch(images, slice(0, 2)))
    assert half.mean[0].item() == pytest.approx(90.0)
    metric(**batch(images, slice(2, 6)))
    torch.testing.assert_close(flat(metric.compute()), expected)
    assert not metric.state_dict()


def test_an_image_with_nan_is_not_judged(detector, images):
    broken = images.clone()
    broken[0] = torch.nan
    metric = DetectorScoring(detector, 2)
    metric.update(**batch(broken, slice(0, 6)))
    realism, judged_real = metric.compute()
    assert realism.number.tolist() == [5, 1, 3]
    assert judged_real.mean[1].item() == 100.0


def test_any_number_of_an_image_can_be_averaged():
    metric = ImageScores(2, resamples=10)
    metric.update(torch.tensor([1.0, 3.0]), prompts=PROMPTS[:2], categories=torch.tensor([0, 1]))
    assert metric.compute().mean.tolist() == [2.0, 1.0, 3.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_categories": -1}, "num_categories must be at least 0, got -1"),
        ({"resamples": 0}, "resamples must be at least 1, got 0"),
        ({"confidence": 1.0}, "confidence must lie between 0 and 1, both excluded, got 1.0"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ImageScores(**settings)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_wrong_input(detector, images):
    metric = DetectorScoring(detector, 1)
    with pytest.raises(ValueError, match="categories must be -1 to 0, got -1 to 1"):
        metric.update(**batch(images, slice(0, 6)))
    with pytest.raises(ValueError, match="DetectorScoring has seen no images"):
        metric.compute()
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
        metric.update(images + 1, prompts=PROMPTS, categories=CATEGORIES)


def one_rank(rank: int, folder: Path, detector, images) -> None:
    """Rank 0 has four images, rank 1 two of them in an order of its own."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    metric = DetectorScoring(detector, 2)
    for rows in (slice(0, 4),) if rank == 0 else (slice(5, 6), slice(4, 5)):
        metric.update(**batch(images, rows))
    torch.save(flat(metric.compute()), folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.distributed
def test_two_processes_equal_one(detector, images, tmp_path):
    detector.to("cpu")  # built before the fork
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=one_rank, args=(rank, tmp_path, detector, images)) for rank in (0, 1)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=120)
    exits = [rank.exitcode for rank in ranks]
    for rank in ranks:
        rank.kill()
    assert exits == [0, 0]
    metric = DetectorScoring(detector, 2)
    metric.update(**batch(images, slice(0, 6)))
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), flat(metric.compute()))
