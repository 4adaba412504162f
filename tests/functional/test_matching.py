import math

import pytest
import torch

from realgen.functional.matching import draw_noise_levels, matching_error
from realgen.types import Draw

F64 = torch.float64
SIGMA, TARGET, VELOCITY = 0.4, [0.0, 1.0], [1.0, 4.0]  # d = (1 + 9) / 2 = 5, mean |v - v*| = 2


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("uniform", 5.0),
        ("t", 0.16 * 5),
        ("adaptive", 0.16 * 5 / 0.8),
        ("exact", 0.6 / 0.401 * 5),
        ("huber", ((5 + 1e-10) ** 0.25 - 1e-10**0.25) * 0.4 / 0.25),
    ],
)
def test_weights_by_hand(error: str, expected: float) -> None:
    draw = Draw(torch.tensor([[TARGET]], dtype=F64), torch.tensor([[SIGMA]], dtype=F64), error)
    assert float(matching_error(torch.tensor([[VELOCITY]], dtype=F64), draw)) == pytest.approx(expected, rel=1e-12)


def test_the_adaptive_scale_has_no_gradient_and_a_floor() -> None:
    draw = Draw(torch.zeros(1, 1, 1), torch.ones(1, 1), "adaptive")
    velocity = torch.full((1, 1, 1), 2.0, requires_grad=True)
    matching_error(velocity, draw).sum().backward()
    assert float(velocity.grad) == 2.0  # 2 v / |v|; with a gradient through the scale it would be 1
    assert float(matching_error(torch.full((1, 1, 1), 1e-6), draw)) == pytest.approx(1e-12 / 1e-5)


def test_half_precision_is_summed_in_float32() -> None:
    draw = Draw(torch.zeros(1, 1, 4096, dtype=torch.bfloat16), torch.ones(1, 1), "uniform")
    error = matching_error(torch.full((1, 1, 4096), 0.1, dtype=torch.bfloat16), draw)
    assert error.dtype == torch.float32
    assert math.isclose(float(error), 0.1**2, rel_tol=1e-2)


def test_an_unknown_weighting_is_refused() -> None:
    with pytest.raises(ValueError, match="error must be a weighting of matching_error, got 'l1'"):
        matching_error(torch.zeros(1, 1, 1), Draw(torch.zeros(1, 1, 1), torch.ones(1, 1), "l1"))


SIGMAS = torch.tensor([1.0, 0.9, 0.75, 0.5, 0.2, 0.0])  # of five steps, shifted towards noise


def draw(kind: str, rows: int = 4000, draws: int = 3, noisiest: float = 1.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return draw_noise_levels(kind, rows, draws, SIGMAS, noisiest=noisiest, generator=generator)


def test_steps_are_the_rollout_s_own_each_once_in_random_order() -> None:
    drawn = draw("steps", draws=5)
    assert torch.equal(drawn.sort(dim=1, descending=True).values, SIGMAS[:5].expand(4000, 5))
    assert (drawn.mean(0) - SIGMAS[:5].mean()).abs().max() < 0.02
    assert set(draw("steps", draws=4, noisiest=0.99).unique().tolist()) == set(SIGMAS[:4].tolist())  # int(4.95)


def test_stratified_draws_follow_the_schedule() -> None:
    drawn = draw("stratified", draws=5)
    assert (drawn <= SIGMAS[:5]).all()
    assert (drawn >= SIGMAS[1:]).all()  # one in each step
    middles = (SIGMAS[:5] + SIGMAS[1:]) / 2
    assert (drawn.mean(0) - middles).abs().max() < 0.01
    assert draw("stratified", noisiest=0.6).min() > 0.5  # three of five steps, counted from noise


def test_uniform_and_logit_normal_have_their_distributions() -> None:
    uniform = draw("uniform")
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(uniform.var()) == pytest.approx(1 / 12, abs=0.005)
    assert draw("uniform", noisiest=0.6).min() > 0.4
    normal = draw("logit_normal").logit()
    assert float(normal.mean()) == pytest.approx(0.0, abs=0.03)
    assert float(normal.std()) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("kind", ["steps", "stratified", "uniform", "logit_normal"])
def test_levels_are_in_range_and_the_generator_decides(kind: str) -> None:
    drawn = draw(kind)
    assert drawn.shape == (4000, 3)
    assert drawn.min() > 0
    assert drawn.max() <= 1
    assert torch.equal(drawn, draw(kind))
    assert not torch.equal(drawn, draw(kind, seed=1))
