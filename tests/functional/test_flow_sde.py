"""Transitions of the rectified flow, against the published formulas, closed forms and Gaussian toy data."""

import math

import pytest
import torch
from torch.distributions import Normal

from realgen.functional.cps import CPS
from realgen.functional.dance_sde import DanceSDE
from realgen.functional.flow_sde import FlowSDE, Transition, gaussian_log_prob

TRANSITIONS = [FlowSDE, DanceSDE, CPS]
SIGMA = torch.tensor([1.0, 0.8, 0.3], dtype=torch.float64)
NEXT_SIGMA = torch.tensor([0.9, 0.6, 0.1], dtype=torch.float64)
SIGMA_MAX = 0.9


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latents, velocity = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    return latents, velocity


def per_row(values: torch.Tensor) -> torch.Tensor:
    return values.view(-1, 1, 1, 1)


def test_flow_sde_is_the_published_formula():
    x, v = draw(3, 2, 4, 4)
    sigma, next_sigma, a = SIGMA, NEXT_SIGMA, 0.7
    dt = next_sigma - sigma
    s = a * (sigma / (1 - torch.tensor([0.9, 0.8, 0.3], dtype=torch.float64))).sqrt()
    slope_x = per_row(1 + s**2 / (2 * sigma) * dt)
    slope_v = per_row((1 + s**2 * (1 - sigma) / (2 * sigma)) * dt)
    mean, std = FlowSDE(a).step(x, v, sigma, next_sigma, SIGMA_MAX)
    torch.testing.assert_close(mean, x * slope_x + v * slope_v, rtol=0, atol=1e-13)
    torch.testing.assert_close(std, s * (-dt).sqrt(), rtol=0, atol=1e-14)


def test_flow_sde_first_step_of_flux():
    # Measured on the published 28-step FLUX schedule with a = 0.9: s = 8.36, s sqrt(-dt) = 0.900, slope of x 0.595.
    sigma_max = 1 - (0.9 / 8.36) ** 2
    one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    mean, std = FlowSDE(0.9).step(one, zero, torch.ones(1), torch.tensor([sigma_max]), sigma_max)
    assert mean.item() == pytest.approx(0.595, abs=5e-4)
    assert std.item() == pytest.approx(0.900, abs=5e-4)


def test_sigma_one_may_be_off_by_rounding():
    x, v = draw(1, 2, 4, 4, dtype=torch.float32)
    almost = torch.nextafter(torch.ones(1), torch.zeros(1))
    _, std = FlowSDE(0.7).step(x, v, almost, torch.tensor([0.9]), SIGMA_MAX)
    assert std.item() == pytest.approx(0.7, rel=1e-5)  # sqrt(1 / 0.1 * 0.1) a


def test_dance_sde_is_the_reverse_sde_with_the_score_of_the_predicted_data():
    x, v = draw(3, 2, 4, 4)
    sigma, next_sigma, a = SIGMA, NEXT_SIGMA, 0.4
    dt = per_row(next_sigma - sigma)
    data = x - per_row(sigma) * v
    score = -(x - per_row(1 - sigma) * data) / per_row(sigma) ** 2
    mean, std = DanceSDE(a).step(x, v, sigma, next_sigma, SIGMA_MAX)
    torch.testing.assert_close(mean, x + v * dt - a**2 / 2 * score * dt, rtol=0, atol=1e-13)
    torch.testing.assert_close(std, a * (sigma - next_sigma).sqrt(), rtol=0, atol=1e-15)


def test_dance_sde_with_the_diffusion_of_flow_sde_is_flow_sde():
    x, v = draw(2, 2, 4, 4)
    sigma, next_sigma = SIGMA[1:], NEXT_SIGMA[1:]
    flow = FlowSDE(0.7).step(x, v, sigma, next_sigma, SIGMA_MAX)
    for row, level in enumerate((0.7 * (sigma / (1 - sigma)).sqrt()).tolist()):
        dance = DanceSDE(level).step(x, v, sigma, next_sigma, SIGMA_MAX)
        torch.testing.assert_close(flow[0][row], dance[0][row], rtol=0, atol=1e-13)
        torch.testing.assert_close(flow[1][row], dance[1][row], rtol=0, atol=1e-13)


def test_cps_is_the_published_formula():
    x, v = draw(3, 2, 4, 4)
    sigma, next_sigma, a = SIGMA, NEXT_SIGMA, 0.6
    std = next_sigma * math.sin(a * math.pi / 2)
    data, noise = x - per_row(sigma) * v, x + per_row(1 - sigma) * v
    expected = per_row(1 - next_sigma) * data + per_row((next_sigma**2 - std**2).sqrt()) * noise
    mean, actual_std = CPS(a).step(x, v, sigma, next_sigma, SIGMA_MAX)
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(actual_std, std, rtol=0, atol=1e-15)


@pytest.mark.parametrize("transition", TRANSITIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_level_zero_is_euler_to_the_bit(transition, dtype):
    x, v = draw(3, 2, 4, 4, dtype=dtype)
    sigma, next_sigma = SIGMA.to(dtype), NEXT_SIGMA.to(dtype)
    mean, std = transition(noise_level=0.0).step(x, v, sigma, next_sigma, SIGMA_MAX)
    assert torch.equal(mean, x + v * per_row(next_sigma - sigma))
    assert torch.equal(std, torch.zeros(3, dtype=dtype))


@pytest.mark.parametrize("transition", TRANSITIONS)
def test_rows_outside_the_window_are_euler_and_rows_inside_are_not_changed_by_it(transition):
    x, v = draw(3, 2, 4, 4)
    sigma, next_sigma = SIGMA, NEXT_SIGMA
    step = transition(noise_level=0.7).step
    mean, std = step(x, v, sigma, next_sigma, SIGMA_MAX, noisy=torch.tensor([True, False, True]))
    inside_mean, inside_std = step(x, v, sigma, next_sigma, SIGMA_MAX)
    assert torch.equal(mean[1], x[1] + v[1] * (next_sigma - sigma)[1])
    assert std[1] == 0
    assert torch.equal(mean[::2], inside_mean[::2])
    assert torch.equal(std[::2], inside_std[::2])
    assert (std[::2] > 0).all()


@pytest.mark.parametrize("transition", TRANSITIONS)
def test_the_step_to_sigma_zero_is_finite(transition):
    x, v = draw(1, 2, 4, 4)
    mean, std = transition(noise_level=0.7).step(x, v, torch.tensor([0.04]), torch.zeros(1), SIGMA_MAX)
    assert mean.isfinite().all()
    assert std.isfinite().all()


@pytest.mark.parametrize("transition", TRANSITIONS)
def test_decisions_batched_equal_one_by_one(transition):
    x, v = draw(3, 2, 4, 8, 8, dtype=torch.float32)
    sigma, next_sigma = torch.tensor([[1.0, 0.8]]).expand(3, 2), torch.tensor([[0.9, 0.6]]).expand(3, 2)
    step = transition(noise_level=0.7).step
    mean, std = step(x, v, sigma, next_sigma, SIGMA_MAX)
    log_probs = gaussian_log_prob(x, mean, std)
    assert log_probs.shape == (3, 2)
    for i in range(2):
        mean_i, std_i = step(x[:, i], v[:, i], sigma[:, i], next_sigma[:, i], SIGMA_MAX)
        assert torch.equal(mean[:, i], mean_i)
        assert torch.equal(std[:, i], std_i)
        assert torch.equal(log_probs[:, i], gaussian_log_prob(x[:, i], mean_i, std_i))


@pytest.mark.parametrize("transition", TRANSITIONS)
def test_axes_of_size_one_broadcast(transition):
    x, v = draw(3, 2, 4, 4)
    step = transition(noise_level=0.7).step
    mean, std = step(x, v, torch.tensor([0.8]), torch.tensor([0.6]), SIGMA_MAX)
    full = step(x, v, torch.full((3,), 0.8), torch.full((3,), 0.6), SIGMA_MAX)
    assert std.shape == (1,)
    assert torch.equal(mean, full[0])
    assert torch.equal(std.expand(3), full[1])


@pytest.mark.parametrize("transition", TRANSITIONS)
@pytest.mark.parametrize(
    ("given", "computed"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)],
)
def test_half_precision_is_lifted_and_float64_stays(transition, given, computed):
    x, v = draw(3, 2, 4, 4, dtype=given)
    mean, std = transition(noise_level=0.7).step(
        x, v, SIGMA, NEXT_SIGMA, SIGMA_MAX, noisy=torch.ones(3, dtype=torch.bool)
    )
    lifted, lifted_std = transition(noise_level=0.7).step(x.to(computed), v.to(computed), SIGMA, NEXT_SIGMA, SIGMA_MAX)
    assert mean.dtype == std.dtype == gaussian_log_prob(x, mean, std).dtype == computed
    assert torch.equal(mean, lifted)
    assert torch.equal(std, lifted_std)


def variance_error(transition: Transition, sigma: float, step_size: float, data_std: float) -> float:
    """How far one step misses the flow's marginal variance, for data N(0, data_std^2): its velocity is linear in x."""

    def variance(level: float) -> float:
        return (1 - level) ** 2 * data_std**2 + level**2

    slope = (sigma - (1 - sigma) * data_std**2) / variance(sigma)  # E[n - x0 | x] = slope x
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    levels = torch.tensor([[sigma], [sigma - step_size]], dtype=torch.float64)
    mean, std = transition.step(one, slope * one, levels[0], levels[1], SIGMA_MAX)
    return mean.item() ** 2 * variance(sigma) + std.item() ** 2 - variance(sigma - step_size)


@pytest.mark.parametrize("transition", [FlowSDE(0.7), FlowSDE(0.0), DanceSDE(0.5)])
@pytest.mark.parametrize("sigma", [0.3, 0.6, 0.9])
def test_sde_keeps_the_marginal_of_gaussian_data_to_first_order(transition, sigma):
    errors = [abs(variance_error(transition, sigma, step_size, data_std=0.5)) for step_size in (2e-3, 1e-3)]
    assert errors[0] < 1e-4
    # First order in the step size leaves a local error of second order: half the step, a quarter of the error.
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("noise_level", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("step_size", [0.1, 0.4])
def test_cps_leaves_exactly_the_right_noise_on_a_point(noise_level, step_size):
    assert variance_error(CPS(noise_level), 0.8, step_size, data_std=0.0) == pytest.approx(0, abs=1e-15)
    # The SDE's Euler step does not: this is the excess noise that CPS was made against.
    assert variance_error(FlowSDE(noise_level), 0.8, step_size, data_std=0.0) > 1e-4


@pytest.mark.parametrize("std_shape", [(3,), (3, 2)])
def test_log_prob_is_the_mean_of_the_normal_log_density(std_shape):
    sample, mean = draw(3, 2, 4, 4)
    std = torch.linspace(0.2, 1.5, math.prod(std_shape), dtype=torch.float64).view(std_shape)
    density = Normal(mean, std.view(*std_shape, *[1] * (4 - len(std_shape)))).log_prob(sample)
    expected = density.flatten(len(std_shape)).mean(-1)
    torch.testing.assert_close(gaussian_log_prob(sample, mean, std), expected, rtol=1e-13, atol=0)


def test_log_prob_sends_gradient_through_the_mean_alone():
    sample, mean = (tensor.requires_grad_() for tensor in draw(2, 1, 2, 2))
    gaussian_log_prob(sample, mean, torch.full((2,), 0.5, dtype=torch.float64)).sum().backward()
    assert sample.grad is None
    # d/d mean of -mean_dims (x - mean)^2 / (2 std^2), 4 elements
    torch.testing.assert_close(mean.grad, (sample - mean).detach() / 0.25 / 4)


@pytest.mark.parametrize("transition", TRANSITIONS)
@pytest.mark.parametrize("noise_level", [-0.1, math.nan, math.inf])
def test_impossible_noise_levels_are_refused(transition, noise_level):
    with pytest.raises(ValueError, match="noise_level must be finite and at least 0"):
        transition(noise_level=noise_level)


def test_cps_replaces_at_most_all_noise():
    with pytest.raises(ValueError, match=r"noise_level of CPS must be 0 to 1, got 1.1"):
        CPS(noise_level=1.1)


def test_each_row_takes_its_own_step() -> None:
    sigma, next_sigma = torch.tensor([0.5, 0.75, 0.75]), torch.tensor([0.0, 0.5, 0.5])
    latents, velocity, noisy = torch.ones(3, 2), torch.full((3, 2), 2.0), torch.tensor([False, False, True])
    mean, std = FlowSDE(0.7).step(latents, velocity, sigma, next_sigma, 0.75, noisy=noisy)
    assert mean[:2].tolist() == [[0.0, 0.0], [0.5, 0.5]]  # 1 - 0.5 * 2 and 1 - 0.25 * 2, the Euler steps
    s = 0.7 * (0.75 / 0.25) ** 0.5  # Flow-GRPO, equation 9
    expected = 1 - 0.25 * (s**2 / 1.5) - 0.25 * 2 * (1 + s**2 * 0.25 / 1.5)
    torch.testing.assert_close(mean[2], torch.full((2,), expected))
    torch.testing.assert_close(std, torch.tensor([0.0, 0.0, s * 0.5]))
