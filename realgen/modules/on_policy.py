"""Why a policy that is trained is not the policy that sampled: runs only after the on-policy check has failed."""

import torch
from jaxtyping import Int
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from realgen.policies.base import Policy
from realgen.types import Rollout

LOW_PRECISION = (torch.bfloat16, torch.float16)
MOST_ROUNDING = 5e-2
"""Largest relative difference of velocities that bfloat16 makes, with guidance."""


class OnPolicyError(ValueError):
    """The policy that is trained is not the policy that sampled."""


def off_policy_error(
    policy: Policy,
    rollout: Rollout,
    rows: Int[Tensor, " picked"],
    deviation: float,
    tolerance: float,
    weights_changed: bool,
) -> OnPolicyError:
    """Return the error of a deviation above the tolerance, with its likely cause; see ``off_policy_cause``."""
    assert rollout.sampled is not None
    of_velocity = rollout.sampled.velocity is not None
    what = "the relative difference of the velocities" if of_velocity else "|ln ratio|"
    rounding = not of_velocity or deviation <= MOST_ROUNDING
    cause = off_policy_cause(policy, rollout, rows, weights_changed=weights_changed, rounding=rounding)
    return OnPolicyError(
        f"before the first update of an iteration the ratio must be 1, but {what} reaches {deviation:.3g} "
        f"(on_policy_tolerance={tolerance:.3g}). Likely cause: {cause}"
    )


def warn_of_rounding(rounding: float, clip_range: float) -> None:
    """Warn that rounding takes the objective's ratio far towards its clip range."""
    rank_zero_warn(
        f"rounding takes the objective's ratio {rounding:.1g} away from 1, more than half of its clip range of "
        f"{clip_range:.2g}: set model.old_log_probs to rescored or update.",
        category=UserWarning,
    )


@torch.no_grad()
def off_policy_cause(
    policy: Policy, rollout: Rollout, rows: Int[Tensor, " picked"], *, weights_changed: bool, rounding: bool
) -> str:
    """Name the likely cause of a deviation, from the surest sign to the weakest.

    The policy is in the state in which it gave the deviating score, and ``rows`` are scored twice more.
    ``weights_changed`` tells whether the weights of any rank are not those that sampled, ``rounding`` whether the
    deviation is small enough to come from low precision. One sentence has the cause, the evidence and what to do.
    """
    if weights_changed:
        return (
            "the weights changed between the rollout and the first update; something (a callback, an EMA swap) writes "
            "to them inside the iteration."
        )
    parts = policy.named_modules()
    dropouts = [name for name, part in parts if isinstance(part, _DropoutNd) and part.training and part.p]
    if dropouts:
        return f"dropout is active in {_listed(dropouts)}; set its probability to 0 or put it into eval mode."
    first, second = (policy.score(rollout, rows).log_probs for _ in range(2))
    if not bool(first.isfinite().all()):
        return "the policy scores NaN or infinity; look for exploded weights or a step whose noise is almost zero."
    if not torch.equal(first, second):
        return (
            "two scores of the same decisions differ, so a layer of the policy is random (stochastic depth, noise, "
            "or a module with its own generator), or the device's kernels are not deterministic."
        )
    signs = _low_precision_signs(policy, rollout)
    if signs and rounding:
        return (
            f"low precision: {_listed(signs)}. Keep latents and log-probabilities in float32, or raise "
            "on_policy_tolerance if the deviation is small against the objective's clip range."
        )
    return (
        "scoring is deterministic, precise enough, and on the same weights, so it sees another conditioning than "
        "sampling did: compare prompt embeddings, guidance_scale, timesteps and the adapters that are switched on. (If "
        "the deviation is tiny, kernels that round differently at another batch size do it: raise on_policy_tolerance.)"
    )


def _low_precision_signs(policy: Policy, rollout: Rollout) -> list[str]:
    signs = [f"autocast is on for {kind}" for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    if policy.device.type == "cuda" and torch.get_float32_matmul_precision() != "highest":
        signs.append(f"float32 matrices are multiplied in {torch.get_float32_matmul_precision()!r} precision (TF32)")
    assert rollout.sampled is not None
    stored = {"log_probs": rollout.sampled.log_probs, **rollout.policy_state}
    signs += [f"the rollout stores {name} in {tensor.dtype}" for name, tensor in stored.items() if _is_low(tensor)]
    weights = {f"weights are {p.dtype}" for p in policy.parameters() if _is_low(p)}
    return signs + sorted(weights)


def _is_low(tensor: Tensor) -> bool:
    return tensor.dtype in LOW_PRECISION


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
