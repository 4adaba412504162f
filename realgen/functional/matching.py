"""Losses at draws of (sigma, noise) on finished latents: which noise levels, and the weighted error of a velocity."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.functional.flow_sde import working_dtype
from realgen.types import Draw

MatchingError = Literal["adaptive", "uniform", "t", "exact", "huber"]
NoiseLevels = Literal["steps", "stratified", "uniform", "logit_normal"]
LEAST_SCALE = 1e-5
HUBER_POWER, HUBER_FLOOR = 0.25, 1e-10


def matching_error(velocity: Float[Tensor, "rows decisions *latent"], draw: Draw) -> Float[Tensor, "rows decisions"]:
    """Return the weighted error of each draw; minus it stands for the log-likelihood of a sample.

    With d = mean (v - v*)^2 over the latent, v* = noise - latent, and x0_hat = x - sigma v:

        uniform     d
        t           sigma^2 d, the squared error of x0_hat
        adaptive    sigma^2 d / max(mean |x0_hat - latent|, 1e-5), no gradient through the denominator
                    (DiffusionNFT, arXiv:2509.16117)
        exact       (1 - sigma) / (sigma + 1e-3) d, the weight of the evidence lower bound
        huber       ((d + 1e-10)^p - 1e-10^p) sigma / p, p = 1/4 (AWM, arXiv:2509.25050, its code's ``ghuber``)

    Errors are >= 0, float32 at least, with gradient through ``velocity``, that of the state at each draw.

    Raises:
        ValueError: If there is no such weighting.
    """
    dtype = working_dtype(velocity, draw.target)
    difference, sigma = velocity.to(dtype) - draw.target.to(dtype), draw.sigma.to(dtype)
    squared = difference.square().flatten(2).mean(-1)
    match draw.error:
        case "adaptive":
            scale = sigma * difference.detach().abs().flatten(2).mean(-1)
            return sigma.square() * squared / scale.clamp(min=LEAST_SCALE)
        case "uniform":
            return squared
        case "t":
            return sigma.square() * squared
        case "exact":
            return (1 - sigma) / (sigma + 1e-3) * squared
        case "huber":
            grown = (squared + HUBER_FLOOR) ** HUBER_POWER - HUBER_FLOOR**HUBER_POWER
            return grown * sigma / HUBER_POWER
    raise ValueError(f"error must be a weighting of matching_error, got {draw.error!r}.")


def draw_noise_levels(
    kind: NoiseLevels,
    rows: int,
    draws: int,
    sigmas: Float[Tensor, " nodes"],
    *,
    noisiest: float,
    generator: torch.Generator,
) -> Float[Tensor, "rows draws"]:
    """Draw noise levels, float32 on the generator's device.

    ``steps`` takes different steps of the rollout's own for each row, in random order. ``stratified`` is continuous in
    the position along the schedule (linear between its nodes), one draw from each of S equal parts, so that it follows
    the schedule's shift. ``uniform`` is uniform in sigma, ``logit_normal`` has sigma = 1 / (1 + exp(-n)), n ~ N(0, 1)
    (SD3, arXiv:2403.03206): dense in the middle, thin towards noise and towards data.

    Args:
        kind: One of these.
        rows: Rows to draw for.
        draws: S of each row; with ``steps`` at most ``int(noisiest * steps)``.
        sigmas: [T + 1] noise levels of the rollout, falling to 0.
        noisiest: Share of the schedule that is drawn from, counted from pure noise, above 0 to 1; of ``logit_normal``
            it must be 1.
        generator: The only source of randomness.

    Returns:
        Noise levels, above 0 to 1.
    """
    how: dict[str, Any] = {"generator": generator, "device": generator.device}
    sigmas, steps = sigmas.to(generator.device, torch.float32), len(sigmas) - 1
    if kind == "steps":
        ranks = torch.rand(rows, max(1, int(noisiest * steps)), **how).argsort(dim=1)
        return sigmas[ranks[:, :draws]]
    if kind == "logit_normal":
        return torch.randn(rows, draws, **how).sigmoid()
    share = torch.rand(rows, draws, **how)  # in [0, 1), so that sigma is above 0
    if kind == "uniform":
        return 1 - noisiest * share
    position = (torch.arange(draws, device=share.device) + share) / draws * noisiest * steps
    node = position.long().clamp(max=steps - 1)
    return torch.lerp(sigmas[node], sigmas[node + 1], position - node)
