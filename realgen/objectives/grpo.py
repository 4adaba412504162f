"""GRPO: group-relative advantages, a clipped surrogate and an optional KL penalty to the reference."""

import math
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from realgen.checks import check_at_least, check_choice
from realgen.functional.advantages import batch_normalized, weighted_advantages
from realgen.functional.kl import gaussian_kl, k2, k3, norm_ratio, velocity_kl
from realgen.functional.policy_loss import clipped_surrogate, engine_weights, is_clipped, masked_mean
from realgen.functional.rewards_std import pooled_std, rewards_std
from realgen.functional.sequence_loss import constant_mean, sample_mean
from realgen.objectives.base import Objective
from realgen.types import Minibatch, PolicyScore, RewardOutput

AdvantageStd = Literal["group", "global", "pooled", "none"]
KL = Literal["latent", "velocity", "k2", "k3"]
Average = Literal["decisions", "samples", "constant"]
EngineCorrection = Literal["none", "truncate", "mask"]


class GRPO(Objective):
    """Group-relative policy optimisation (arXiv:2402.03300).

    With a diffusion policy this is Flow-GRPO (arXiv:2505.05470). Each reward is normalised on its own before they are
    added (GDPO, arXiv:2601.05242). With ``clip_high`` above ``clip_low`` and all decisions weighing alike it is DAPO
    (arXiv:2503.14476), with ``average="constant"`` and ``advantage_std="none"`` Dr.GRPO (arXiv:2503.20783). ValueError
    if a number is out of its range, or a name is unknown.

    Args:
        clip_low: How far the ratio may fall below 1 before a bad sample is left alone, 0 to 1. Diffusion log-probs are
            means over the latent, so their ratios are tiny: 1e-4 and below there, 0.2 for tokens.
        clip_high: How far the ratio may rise above 1 before a good sample is left alone, >= 0.
        advantage_std: Divide each reward by the standard deviation of its ``group``, by the ``global`` one over all
            prompts of all ranks, by the ``pooled`` one within the groups of all prompts, which the spread between
            prompts does not enter, or by ``none`` (Dr.GRPO, arXiv:2503.20783).
        advantage_clip: Largest size of an advantage, > 0; ``.inf`` leaves them alone.
        kl: What ``kl_coef`` multiplies: the Gaussian KL of each step (``latent``), the mean squared difference of
            velocities (``velocity``), or an estimate from log-probs alone (``k2``, ``k3``), meant for tokens. ``k1`` is
            no choice: its gradient averages to zero, and that of ``k2`` is what it was meant to have.
        kl_coef: Weight of the KL penalty, >= 0; 0 saves the reference's forward passes.
        norm_coef: Weight of the mean growth of a velocity over the reference's, max(0, |v| / |v_ref| - 1), >= 0. After
            NormGuard (arXiv:2606.27771), whose exact form is not known to us.
        divide_by_weights: Divide the weighted sum of advantages by the sum of the rewards' weights.
        normalize_sum: Divide the sum over rewards by its standard deviation over all ranks' samples, GDPO's second
            normalisation (arXiv:2601.05242): its scale no longer depends on how many rewards there are.
        average: How the loss is averaged where samples differ in length: all ``decisions`` of all ranks alike (DAPO,
            equation 8), all ``samples`` alike, each by its own mean (the paper, equation 3), or by a ``constant``, the
            sum over the number of samples times ``most_decisions`` (Dr.GRPO). The same for diffusion policies, but for
            that constant's scale.
        most_decisions: With ``average="constant"``, the most decisions of a sample: the policy's ``max_tokens``.
        engine_correction: For texts whose engine has other probabilities than the policy that is trained: ``truncate``
            weighs each token by policy over engine, at most ``engine_limit``, ``mask`` leaves out samples whose mean
            of it is beyond; averages are over as many decisions as before. See ``functional.policy_loss``.
        engine_limit: Above 1.
    """

    maxima = frozenset({"ratio_max_deviation"})

    def __init__(
        self,
        clip_low: float = 1e-4,
        clip_high: float = 1e-4,
        advantage_std: AdvantageStd = "group",
        advantage_clip: float = 5.0,
        kl: KL = "velocity",
        kl_coef: float = 0.0,
        norm_coef: float = 0.0,
        divide_by_weights: bool = True,
        normalize_sum: bool = False,
        average: Average = "decisions",
        most_decisions: int | None = None,
        engine_correction: EngineCorrection = "none",
        engine_limit: float = 2.0,
    ) -> None:
        if not 0 <= clip_low <= 1:
            raise ValueError(f"clip_low must be 0 to 1, got {clip_low}.")
        check_at_least(0, clip_high=clip_high)
        if not advantage_clip > 0:
            raise ValueError(f"advantage_clip must be above 0 (.inf for none), got {advantage_clip}.")
        if not 0 <= kl_coef < math.inf:
            raise ValueError(f"kl_coef must be finite and at least 0, got {kl_coef}.")
        if not 0 <= norm_coef < math.inf:
            raise ValueError(f"norm_coef must be finite and at least 0, got {norm_coef}.")
        check_choice("advantage_std", advantage_std, get_args(AdvantageStd))
        check_choice("kl", kl, get_args(KL))
        check_choice("average", average, get_args(Average))
        check_choice("engine_correction", engine_correction, get_args(EngineCorrection))
        if not 1 < engine_limit < math.inf:
            raise ValueError(f"engine_limit must be finite and above 1, got {engine_limit}.")
        if (average == "constant") != (most_decisions is not None) or (
            most_decisions is not None and most_decisions < 1
        ):
            raise ValueError(
                "most_decisions must be at least 1 with average='constant' and null otherwise, got "
                f"{most_decisions} with average={average!r}."
            )
        self.clip_low = clip_low
        self.clip_high = clip_high
        self.clip_range = min(clip_low, clip_high)
        self.advantage_std = advantage_std
        self.advantage_clip = advantage_clip
        self.kl = kl
        self.kl_coef = kl_coef
        self.norm_coef = norm_coef
        self.divide_by_weights = divide_by_weights
        self.normalize_sum = normalize_sum
        self.average = average
        self.most_decisions = most_decisions
        self.engine_correction = engine_correction
        self.engine_limit = engine_limit

    @property
    def requires(self) -> frozenset[str]:
        """The steps' Gaussians or velocities, where a penalty is made of them, and the engine's log-probabilities."""
        part = {"latent": "gaussian", "velocity": "velocity"}.get(self.kl)
        parts = {part} if part and self.needs_reference else set()
        parts |= {"velocity"} if self.norm_coef else set()
        return frozenset(parts | ({"engine_log_probs"} if self.engine_correction != "none" else set()))

    @property
    def needs_reference(self) -> bool:
        """Whether there is a penalty."""
        return self.kl_coef > 0 or self.norm_coef > 0

    def advantages(self, rewards: RewardOutput) -> Float[Tensor, "prompts group"]:
        """Return the weighted sum of each reward's group-relative advantages [P, G], clipped."""
        spread = {"global": rewards_std, "pooled": pooled_std}.get(self.advantage_std)
        std = spread and {name: spread(values, rewards.valid) for name, values in rewards.components.items()}
        advantages = weighted_advantages(
            rewards.components,
            rewards.weights,
            valid=rewards.valid,
            std_normalize=self.advantage_std != "none",
            std=std,
            divide_by_weights=self.divide_by_weights,
        )
        if self.normalize_sum:
            advantages = batch_normalized(advantages, rewards.valid)
        return advantages.clamp(-self.advantage_clip, self.advantage_clip)

    def loss(self, score: PolicyScore, batch: Minibatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return the mean clipped surrogate, plus ``kl_coef`` times the mean KL.

        ValueError if the reference is missing.

        Returns:
            Loss, and detached means over the decisions that count: ``policy_loss``; with a correction
            ``engine_weight``; with a reference ``kl`` and, of velocities, ``norm_ratio``; ``ratio_mean``,
            ``ratio_max_deviation`` (largest |ratio - 1|), ``clip_fraction`` and ``approx_kl`` (from the sampling policy
            to the current one, by k3).
        """
        ratio = self.ratio(score, batch)
        surrogate = self.surrogate(ratio, score, batch)
        stats: dict[str, Tensor] = {}
        if self.engine_correction != "none":
            old, engine = batch.sampled.log_probs, batch.sampled.engine_log_probs
            assert engine is not None  # `check_policy` has refused policies without it
            how: Any = {"correction": self.engine_correction, "limit": self.engine_limit}
            weights = engine_weights(old, engine, batch.mask, **how)
            surrogate, stats["engine_weight"] = surrogate * weights, masked_mean(weights, batch.mask)
        policy_loss = loss = self.mean(surrogate, batch.mask)
        stats["policy_loss"] = policy_loss.detach()
        if self.needs_reference:
            kl = self.mean(self.penalty(score, batch), batch.mask)
            loss = policy_loss + self.kl_coef * kl
            stats["kl"] = kl.detach()
            if score.velocity is not None and batch.reference is not None and batch.reference.velocity is not None:
                growth = norm_ratio(score.velocity, batch.reference.velocity)
                loss = loss + self.norm_coef * self.mean((growth - 1).relu(), batch.mask)
                stats["norm_ratio"] = masked_mean(growth.detach(), batch.mask)
        with torch.no_grad():
            clipped = is_clipped(ratio, batch.advantages, self.clip_low, self.clip_high)
            stats["ratio_mean"] = masked_mean(ratio, batch.mask)
            stats["ratio_max_deviation"] = torch.where(batch.mask, (ratio - 1).abs(), 0).amax()
            stats["clip_fraction"] = masked_mean(clipped.to(ratio.dtype), batch.mask)
            stats["approx_kl"] = masked_mean(k3(batch.sampled.log_probs, score.log_probs), batch.mask)
        return loss, stats

    def mean(self, values: Float[Tensor, "rows decisions"], mask: Bool[Tensor, "rows decisions"]) -> Float[Tensor, ""]:
        """Average losses of decisions as ``average`` says."""
        if self.average == "samples":
            return sample_mean(values, mask)
        if self.most_decisions is not None:
            return constant_mean(values, mask, self.most_decisions)
        return masked_mean(values, mask)

    def row_weights(self, mask: Bool[Tensor, "rows decisions"]) -> Float[Tensor, " rows"]:
        """Return how much each row weighs in the loss: by its decisions, or all alike."""
        decisions = mask.sum(1).double()
        return decisions if self.average == "decisions" else torch.ones_like(decisions)

    def surrogate(
        self, ratio: Float[Tensor, "rows decisions"], score: PolicyScore, batch: Minibatch
    ) -> Float[Tensor, "rows decisions"]:
        """Return the loss of each decision, without the KL penalty."""
        surrogate = clipped_surrogate(ratio, batch.advantages, self.clip_low, self.clip_high)
        return surrogate * self.decision_weight(batch.sampled)

    def ratio(self, score: PolicyScore, batch: Minibatch) -> Float[Tensor, "rows decisions"]:
        """Return the importance ratio of each decision: how much likelier it is than when it was sampled."""
        return (score.log_probs - batch.sampled.log_probs).exp()

    def decision_weight(self, sampled: PolicyScore) -> Float[Tensor, "rows decisions"]:
        """Return the weight of each decision's surrogate."""
        return torch.ones_like(sampled.log_probs)

    def penalty(self, score: PolicyScore, batch: Minibatch) -> Float[Tensor, "rows decisions"]:
        """Return what ``kl_coef`` multiplies: how far each decision's distribution is from the reference's."""
        if (reference := batch.reference) is None:
            raise ValueError(f"kl_coef={self.kl_coef} needs the reference's score in the minibatch, got None.")
        match self.kl:
            case "latent":
                assert score.gaussian is not None  # `check_policy` has refused policies without it
                assert reference.gaussian is not None
                return gaussian_kl(score.gaussian.mean, reference.gaussian.mean, score.gaussian.std)
            case "velocity":
                assert score.velocity is not None
                assert reference.velocity is not None
                return velocity_kl(score.velocity, reference.velocity)
            case "k2":
                return k2(score.log_probs, reference.log_probs)
            case "k3":
                return k3(score.log_probs, reference.log_probs)
