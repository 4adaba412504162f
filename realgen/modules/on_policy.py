"""The guard of GRPO's first assumption: right after a rollout, scoring it again gives the same log-probabilities."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from realgen.parallel import any_rank, local_part, max_over_ranks, reshard
from realgen.policies.base import Policy
from realgen.types import Minibatch, PolicyScore, Rollout

LOW_PRECISION = (torch.bfloat16, torch.float16)


class OnPolicyError(ValueError):
    """The policy that is trained is not the policy that sampled."""


class OnPolicyGuard:
    """Watches the scores before the first update of one iteration, and stops the run if they are not on-policy.

    Args:
        policy: Right after the rollout.
        rollout: What the policy has just sampled.
        tolerance: Largest |ln ratio| that passes. Make it small against the objective's clip range.
    """

    def __init__(self, policy: Policy, rollout: Rollout, *, tolerance: float) -> None:
        self.policy = policy
        self.rollout = rollout
        self.tolerance = tolerance
        self.deviation = torch.zeros((), device=rollout.sampled.log_probs.device)
        """Largest |ln ratio| so far; of all ranks after ``check``."""
        self._fingerprint = weight_fingerprint(policy)
        self._rows = torch.empty(0, dtype=torch.long)

    def watch(self, score: PolicyScore, batch: Minibatch, rows: Int[Tensor, " picked"]) -> None:
        """Take in the score of one microbatch, before any update."""
        difference = (score.log_probs.detach() - batch.sampled.log_probs).abs()
        # amax hands NaN on, so a policy that scores NaN does not pass.
        self.deviation = torch.stack([self.deviation, torch.where(batch.mask, difference, 0.0).amax()]).amax()
        self._rows = rows

    def check(self) -> None:
        """Judge what was watched, on all ranks together.

        Raises:
            OnPolicyError: If it is above the tolerance or NaN; the message names the likely cause.
        """
        self.deviation = max_over_ranks(self.deviation)
        if float(self.deviation) <= self.tolerance:
            return
        cause = off_policy_cause(self.policy, self.rollout, self._rows, self._fingerprint)
        raise OnPolicyError(
            f"before the first update of an iteration the ratio must be 1, but |ln ratio| reaches {self.deviation:.3g} "
            f"(on_policy_tolerance={self.tolerance:.3g}). Likely cause: {cause}"
        )


def weight_fingerprint(policy: Policy) -> Float[Tensor, " weights"]:
    """Norm of each weight (of this rank's shard): equal before and after if nobody wrote to the weights."""
    reshard(policy)
    weights = [local_part(p.detach()) for p in policy.parameters() if p.is_floating_point()]
    return torch.stack([norm.double().cpu() for norm in torch._foreach_norm(weights)])


@torch.no_grad()
def off_policy_cause(
    policy: Policy, rollout: Rollout, rows: Int[Tensor, " picked"], fingerprint: Float[Tensor, " weights"]
) -> str:
    """Name the likely cause of a deviation, from the surest sign to the weakest.

    Args:
        policy: In the state in which it gave the deviating score.
        rollout: What it was asked to score.
        rows: Some rows of the rollout; they are scored twice more.
        fingerprint: ``weight_fingerprint`` right after the rollout.

    Returns:
        One sentence with the cause, the evidence and what to do.
    """
    # Asked of all ranks together: a rank that left here while others score again would leave them waiting.
    if any_rank(not torch.equal(fingerprint, weight_fingerprint(policy)), policy.device):
        return (
            "the weights changed between the rollout and the first update; something (a callback, an EMA swap) writes "
            "to them inside the iteration."
        )
    dropouts = _active_dropouts(policy)
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
    if signs:
        return (
            f"low precision: {_listed(signs)}. Keep latents and log-probabilities in float32, or raise "
            "on_policy_tolerance if the deviation is small against the objective's clip range."
        )
    return (
        "scoring is deterministic, in float32, and on the same weights, so it sees another conditioning than sampling "
        "did: compare prompt embeddings, guidance_scale, timesteps and the adapters that are switched on. (If the "
        "deviation is tiny, kernels that round differently at another batch size do it: raise on_policy_tolerance.)"
    )


def _active_dropouts(policy: nn.Module) -> list[str]:
    return [name for name, part in policy.named_modules() if isinstance(part, _DropoutNd) and part.training and part.p]


def _low_precision_signs(policy: Policy, rollout: Rollout) -> list[str]:
    signs = [f"autocast is on for {kind}" for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    if policy.device.type == "cuda" and torch.get_float32_matmul_precision() != "highest":
        signs.append(f"float32 matrices are multiplied in {torch.get_float32_matmul_precision()!r} precision (TF32)")
    stored = {"log_probs": rollout.sampled.log_probs, **rollout.trajectory}
    signs += [f"the rollout stores {name} in {tensor.dtype}" for name, tensor in stored.items() if _is_low(tensor)]
    weights = {f"weights are {p.dtype}" for p in policy.parameters() if _is_low(p)}
    return signs + sorted(weights)


def _is_low(tensor: Tensor) -> bool:
    return tensor.dtype in LOW_PRECISION


def _listed(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
