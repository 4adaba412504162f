"""What every metric promises; a new one joins by being exported."""

from __future__ import annotations

import inspect
import math
import pickle

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchmetrics import MetricCollection

import realgen.metrics
from realgen.functional.logistic_regression import LogisticHead
from realgen.metrics import KID, ImageMetric, RealComparison
from realgen.metrics.base import jackknife_error
from realgen.metrics.encoder_probe import save_probe

METRICS = [
    thing
    for name in realgen.metrics.__all__
    if inspect.isclass(thing := getattr(realgen.metrics, name))
    and issubclass(thing, ImageMetric)
    and not inspect.isabstract(thing)
]
PROMPTS = ["a cat", "a dog", "a cat", "a cup", "a dog", "a cup", "a dog", "a cat", "a tree", "a cup"]
VALID = torch.tensor([True, True, True, True, True, True, True, True, False, True])


def test_all_metrics_are_found():
    assert sorted(metric.__name__ for metric in METRICS) == [
        "ColorDistance", "ContrastDistance", "DetectorAUROC", "DetectorScore", "Diversity", "EncoderProbe", "FID",
        "GridEnergy", "JudgedReal", "KID", "SpectrumDistance",
    ]  # fmt: skip


@pytest.fixture
def judges(detector, encoder, tmp_path):
    """What metrics are given, by the name of the argument."""
    save_probe(tmp_path, LogisticHead(torch.linspace(-1, 1, 12), torch.tensor(0.1)))
    return {"detector": detector, "encoder": encoder, "probe": str(tmp_path)}


def build(metric, judges):
    names = inspect.signature(metric).parameters
    return metric(**{name: judge for name, judge in judges.items() if name in names})


@pytest.fixture(params=METRICS, ids=lambda metric: metric.__name__)
def metric(request, judges):
    return build(request.param, judges)


@pytest.fixture
def batch(photographs):
    """Ten generated images (soft and dark) and ten photographs."""
    images, real = 0.7 * torch.nn.functional.avg_pool2d(photographs[:10], 3, 1, 1), photographs[10:20].clone()
    return {"images": images, "prompts": PROMPTS, "real": real, "valid": VALID}


def part(batch, rows: slice):
    return {name: value[rows] for name, value in batch.items()}


def value_of(metric, *batches):
    metric = metric.clone()
    metric.reset()
    for batch in batches:
        metric.update(**batch)
    return metric.compute()


def test_class_constants(metric):
    assert isinstance(metric.higher_is_better, bool)
    assert metric.is_differentiable is False
    assert metric.full_state_update is False
    with pytest.raises(RuntimeError, match="Can't change const"):
        metric.higher_is_better = True


def test_one_float(metric, batch):
    value = value_of(metric, batch)
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert value.isfinite()


def test_batches_equal_all_at_once(metric, batch):
    whole = value_of(metric, batch)
    pieces = value_of(metric, part(batch, slice(0, 3)), part(batch, slice(3, 9)), part(batch, slice(9, 10)))
    torch.testing.assert_close(pieces, whole, rtol=1e-5, atol=1e-6)


def test_two_ranks_equal_all_at_once(metric, batch):
    ranks = metric.clone(), metric.clone()
    ranks[0].update(**part(batch, slice(0, 4)))
    ranks[1].update(**part(batch, slice(4, 10)))
    ranks[0].merge_state(ranks[1])
    torch.testing.assert_close(ranks[0].compute(), value_of(metric, batch), rtol=1e-5, atol=1e-6)


def test_forward_tells_the_batch_and_keeps_it(metric, batch):
    first, second = part(batch, slice(0, 5)), part(batch, slice(5, 10))
    assert torch.equal(metric(**first), value_of(metric, first))
    metric(**second)
    torch.testing.assert_close(metric.compute(), value_of(metric, first, second), rtol=1e-5, atol=1e-6)


def test_works_in_a_collection(judges, batch):
    """None shares its states with another, and ``update`` hands each what it names."""
    metrics = {metric.__name__: build(metric, judges) for metric in METRICS}
    together = MetricCollection({name: metric.clone() for name, metric in metrics.items()})
    together.update(**part(batch, slice(0, 4)))
    together.update(**part(batch, slice(4, 10)))
    for name, value in together.compute().items():
        torch.testing.assert_close(value, value_of(metrics[name], batch), rtol=1e-5, atol=1e-6)


def test_padding_does_not_count(metric, batch):
    kept = {
        "images": batch["images"][VALID],
        "prompts": [prompt for prompt, keep in zip(PROMPTS, VALID, strict=True) if keep],
        "real": batch["real"][VALID],
    }
    batch["images"][8] = torch.nan
    batch["real"][8] = torch.nan
    torch.testing.assert_close(value_of(metric, batch), value_of(metric, kept), rtol=1e-5, atol=1e-6)


def test_batch_of_padding_changes_nothing_and_keeps_the_states_rank(metric, batch):
    padding = {**part(batch, slice(0, 2)), "valid": torch.zeros(2, dtype=torch.bool)}
    torch.testing.assert_close(value_of(metric, padding, batch), value_of(metric, batch), rtol=1e-5, atol=1e-6)
    metric.update(**padding)
    (empty,) = metric.generated
    metric.update(**batch)
    assert empty.shape == (0, *metric.generated[1].shape[1:])


def test_valid_nan_shows(metric, batch):
    batch["images"][0] = torch.nan
    assert value_of(metric, batch).isnan()


def test_survives_clone_and_pickle(metric, batch):
    expected = value_of(metric, batch)
    metric.update(**part(batch, slice(0, 5)))  # the judges are built now
    for copy in (metric.clone(), pickle.loads(pickle.dumps(metric))):
        copy.update(**part(batch, slice(5, 10)))
        torch.testing.assert_close(copy.compute(), expected, rtol=1e-5, atol=1e-6)


def test_reset_forgets(metric, batch):
    metric.update(**{**batch, "images": batch["real"]})
    metric.compute()
    metric.reset()
    metric.update(**batch)
    torch.testing.assert_close(metric.compute(), value_of(metric, batch))


def test_judges_stay_out_of_state_dict_and_parameters(metric, batch):
    metric.update(**batch)
    assert not metric.state_dict()
    assert not list(metric.parameters())
    assert isinstance(hash(metric), int)


def test_draws_no_random_numbers_and_keeps_no_graph(metric, batch):
    metric.update(**batch)  # builds the judges, whose random weights are drawn here
    before = torch.random.get_rng_state()
    metric.update(**{**batch, "images": batch["images"].clone().requires_grad_()})
    assert not metric.compute().requires_grad
    assert torch.equal(torch.random.get_rng_state(), before)


def test_measures_in_float32_under_autocast(metric, batch):
    expected = value_of(metric, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = value_of(metric, batch)
    assert torch.equal(actual, expected)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_compute_without_images(metric):
    with pytest.raises(ValueError, match=f"{type(metric).__name__} has seen no generated images"):
        metric.compute()


def test_compute_without_photographs(metric, batch):
    metric.update(batch["images"], prompts=PROMPTS)
    if isinstance(metric, RealComparison):
        with pytest.raises(ValueError, match=f"{type(metric).__name__} has seen no real images"):
            metric.compute()
    else:
        assert metric.compute().isfinite()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.rand(10, 1, 64, 64)}, r"images must have shape \[batch, 3, height, width\]"),
        ({"images": torch.full((10, 3, 64, 64), 2.0)}, r"images must lie in \[0, 1\]"),
        ({"real": torch.rand(10, 64, 64)}, r"real must have shape \[batch, 3, height, width\]"),
        ({"real": torch.rand(9, 3, 64, 64)}, "real must have one real image per image, 10, got 9"),
        ({"prompts": PROMPTS[:4]}, "prompts must be one per image, 10, got 4"),
        ({"valid": torch.ones(9, dtype=torch.bool)}, r"valid must be bool \[10\], got torch.bool \[9\]"),
    ],
    ids=["channels", "range", "rank", "photographs", "prompts", "valid"],
)
def test_wrong_input(photographs, change, message):
    metric = realgen.metrics.ColorDistance()
    update = inspect.unwrap(type(metric).update)  # without the tests' shape checker, as in training
    with pytest.raises(ValueError, match=message):
        update(metric, **{"images": photographs[:10], "prompts": PROMPTS, "real": photographs[10:20], **change})
    assert not metric.generated


def test_valid_must_be_boolean(photographs):
    metric = realgen.metrics.ColorDistance()
    update = inspect.unwrap(type(metric).update)
    with pytest.raises(ValueError, match=r"valid must be bool \[2\], got torch.int64 \[2\]"):
        update(metric, photographs[:2], prompts=PROMPTS[:2], valid=torch.tensor([0, 1]))


def without(photographs, prompts, left_out: set[str], encoder):
    """KID from scratch, without some prompts and their photographs."""
    rows = [row for row, prompt in enumerate(prompts) if prompt not in left_out]
    metric = KID(encoder)
    metric.update(photographs[rows], prompts=[prompts[row] for row in rows], real=photographs[48:][rows])
    return metric.compute().double()


def test_each_prompt_is_left_out_with_its_real_image(encoder, photographs):
    prompts = [f"prompt {row // 2}" for row in range(8)]
    metric = KID(encoder)
    for rows in (slice(0, 3), slice(3, 8)):
        metric.update(photographs[rows], prompts=prompts[rows], real=photographs[48:][rows])
    whole = metric.compute()
    expected = sorted(float(without(photographs, prompts, {f"prompt {k}"}, encoder)) for k in range(4))
    assert sorted(metric.without_each().tolist()) == pytest.approx(expected, abs=1e-6)
    metric._computed = None
    assert torch.equal(metric.compute(), whole), "nothing is lost of the states"


def test_many_prompts_are_left_out_in_groups_that_stay_the_same(encoder, photographs):
    prompts = [f"prompt {row}" for row in range(90)]
    metric = KID(encoder)
    metric.update(photographs[:90], prompts=prompts, real=photographs[:90])
    values = metric.without_each()
    assert len(values) == 40
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0)).tolist()
    other = KID(encoder)
    other.update(photographs[order], prompts=[prompts[row] for row in order], real=photographs[order])
    torch.testing.assert_close(other.without_each(), values)


def test_real_images_without_a_prompt_are_never_left_out(encoder, photographs):
    metric = KID(encoder)
    metric.add_real(photographs[:10])
    metric.update(photographs[10:13], prompts=["a", "b", "c"])
    rest = KID(encoder)
    rest.add_real(photographs[:10])
    rest.update(photographs[[10, 12]], prompts=["a", "c"])
    expected = rest.compute().item()
    assert min(abs(value - expected) for value in metric.without_each().tolist()) < 1e-6


def test_too_few_prompts_have_no_error(encoder, photographs):
    metric = KID(encoder)
    metric.update(photographs[:2], prompts=["a", "a"], real=photographs[2:4])
    assert len(metric.without_each()) == 0
    assert math.isnan(jackknife_error(metric.without_each()))


@pytest.mark.parametrize("name", ["KID", "Diversity"])
def test_prompts_that_cannot_be_spared_leave_no_interval(name, encoder, photographs):
    """Without one of them the metric has too few images, which costs no more than the interval."""
    metric = getattr(realgen.metrics, name)(encoder)
    rows, prompts = (slice(0, 2), ["a", "b"]) if name == "KID" else (slice(0, 3), ["a", "a", "b"])
    metric.update(photographs[rows], prompts=prompts, real=photographs[48:][rows])
    assert metric.compute().isfinite()
    assert len(metric.without_each()) == 0


def test_a_metric_with_a_state_of_its_own_has_no_interval(photographs):
    """Its rows cannot be left out with a prompt, so an interval of width 0 would call any change better."""

    class Running(ImageMetric):
        higher_is_better = True

        def __init__(self) -> None:
            super().__init__()
            self.add_state("total", default=torch.zeros(()), dist_reduce_fx="sum")

        def describe(self, images):
            self.total = self.total + images.mean()
            return images.mean((1, 2, 3))

        def compute(self):
            return self.result(self.total)

    metric = Running()
    metric.update(photographs[:4], prompts=["a", "b", "c", "d"])
    assert len(metric.without_each()) == 0


def test_leaving_prompts_out_of_kid_costs_no_more_than_kid(encoder):
    """1,000 prompts of 4 images took five minutes of a core when every kernel was computed 40 times."""
    metric = KID(encoder)
    for state, rows in (("generated", 160), ("real", 80)):
        getattr(metric, state).append(torch.rand(rows, 256, generator=torch.Generator().manual_seed(rows)))
        getattr(metric, f"{state}_prompts").append(torch.arange(rows) % 80)
    metric._update_count = 1
    flops = []
    for call in (metric.compute, metric.without_each):
        with FlopCounterMode(display=False) as counter:
            call()
        flops.append(counter.get_total_flops())
    assert flops[1] < 2 * flops[0]


def test_jackknife_of_a_mean_is_its_standard_error():
    values = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    without_each = (values.sum() - values) / 49
    assert jackknife_error(without_each) == pytest.approx(values.std().item() / 50**0.5)
