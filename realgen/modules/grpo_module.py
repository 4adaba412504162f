"""One GRPO iteration, written once for every policy, reward and objective."""

from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from realgen.checks import check_at_least, check_choice
from realgen.metrics.base import ImageMetric
from realgen.modules.background_rewards import BackgroundRewards
from realgen.modules.data_anchor import DataAnchor
from realgen.modules.policy_module import PolicyModule
from realgen.modules.policy_update import OldLogProbs, PolicyUpdate, reference_score, shuffled_minibatches
from realgen.modules.refill import Groups, Refill
from realgen.modules.seeds import iteration_generator
from realgen.modules.statistics import (
    advantage_statistics,
    check_any_scored,
    combine_microbatches,
    combine_ranks,
    gather_rewards,
    reward_statistics,
)
from realgen.objectives.base import Objective
from realgen.parallel import any_rank, gather_first_axis, gradient_sync, whole, world_size
from realgen.phases import PhaseClock
from realgen.policies.base import Policy
from realgen.policies.joint_policy import JointPolicy
from realgen.policies.prompt_policy import PromptPolicy
from realgen.rewards.base import Reward
from realgen.types import PromptBatch, RewardOutput, Rollout


class IterationData(NamedTuple):
    """What an iteration has collected before its updates."""

    batch: PromptBatch
    """The prompts, those of refilled groups among them."""
    rollout: Rollout
    rewards: RewardOutput
    updates: list[PolicyUpdate]
    """What the rewards change; one per trained policy."""
    statistics: dict[str, Tensor]
    """Scalars to log, over all ranks."""


class GRPOModule(PolicyModule):
    """Trains a policy with GRPO (DeepSeekMath, arXiv:2402.03300, algorithm 1; Flow-GRPO, arXiv:2505.05470).

    One ``training_step`` is one iteration: rollout, rewards, advantages, updates. Optimisation is manual, so the
    Trainer's gradient clipping and accumulation are off; ``max_grad_norm`` and ``microbatch_size`` stand for them. A
    Lightning epoch is just ``limit_train_batches`` iterations. The learning rate scheduler steps once per iteration.

    All randomness of an iteration comes from (seed, rank, iteration), and ``iteration`` is in the checkpoint, so a
    resumed run goes on as if it had not stopped. The checkpoint holds trained weights only.

    Logged beside rewards, advantages, loss and seconds: ``images_per_second`` over all ranks, ``transformer_evals``
    (rows that this rank's image transformer was called with), and what ``Policy.statistics`` says. ValueError if a
    number is out of its range, or policy, module and objective do not fit each other.

    Args:
        policy: The policy to train; a ``JointPolicy`` needs ``JointGRPOModule``.
        reward: Scores the samples.
        objective: The GRPO variant: advantages and loss.
        optimizer: Builds the optimizer from the trained parameters.
        lr_scheduler: Builds a learning rate scheduler from the optimizer; it steps once per iteration.
        group_size: G, samples per prompt, >= 2.
        inner_epochs: How often an iteration goes through its rollout, >= 1.
        updates_per_epoch: Optimizer updates per inner epoch, >= 1; must divide prompts per rank times ``group_size``.
        microbatch_size: Rows per forward and backward pass, >= 1. Changes memory and speed, not the gradient.
        max_grad_norm: Gradients of a larger norm are scaled down to it, > 0; ``.inf`` only measures the norm.
        skip_zero_advantages: Skip the passes of rows whose advantage is zero, when the objective has no KL. Exact, as
            their gradient is zero; statistics of the loss are then over the other rows. Does nothing with FSDP, where
            all ranks must make the same calls.
        on_policy_tolerance: What passes before the first update of an iteration; above it, the run stops and names the
            likely cause. For a diffusion policy the largest relative difference of a velocity, rms(v_new - v_old) /
            rms(v_old), by default 0.05 in bfloat16 or TF32 and 1e-4 in float32; for tokens the largest |ln ratio|, by
            default 1e-5.
        old_log_probs: What ratios are taken to, each exact: the score of the ``rollout``; the rollout ``rescored`` in
            calls like those of the update, where rounding by other batch sizes cancels, for one more pass; or where a
            rollout has one update, the score of that ``update``, which spares a language model the rollout's.
        metrics: Metrics at validation that no reward ever sees, by name; ``null`` drops one.
        validation_samples_per_prompt: Images drawn of each validation prompt, >= 1.
        seed: Chooses every random number of training, together with rank and iteration.
        overlap_rewards: Score in another thread meanwhile where the reward gains by it. Exact. False if it cannot.
        frozen_on_demand: Text encoders, decoder, rewards lie on the GPU only while they compute. Exact; costs copies.
        data_anchor: Adds a flow-matching loss on the prompts' photographs; see ``DataAnchor``.
        refill: Replaces groups whose rewards are all alike by those of other prompts; see ``Refill``.
    """

    def __init__(
        self,
        policy: Policy,
        reward: Reward,
        objective: Objective,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        group_size: int = 12,
        inner_epochs: int = 1,
        updates_per_epoch: int = 1,
        microbatch_size: int = 16,
        max_grad_norm: float = 1.0,
        skip_zero_advantages: bool = True,
        on_policy_tolerance: float | None = None,
        old_log_probs: OldLogProbs = "rollout",
        metrics: dict[str, ImageMetric | None] | None = None,
        validation_samples_per_prompt: int = 1,
        seed: int = 0,
        overlap_rewards: bool = True,
        frozen_on_demand: bool = False,
        data_anchor: DataAnchor | None = None,
        refill: Refill | None = None,
    ) -> None:
        self.check_policy(policy)
        super().__init__(policy, reward, optimizer, lr_scheduler, metrics, validation_samples_per_prompt)
        check_at_least(2, ": a group of one has no one to be better than", group_size=group_size)
        check_at_least(
            1, inner_epochs=inner_epochs, updates_per_epoch=updates_per_epoch, microbatch_size=microbatch_size
        )
        if not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be above 0 (.inf for no limit), got {max_grad_norm}.")
        check_at_least(0, on_policy_tolerance=on_policy_tolerance)
        check_choice("old_log_probs", old_log_probs, get_args(OldLogProbs))
        if old_log_probs == "update" and inner_epochs * updates_per_epoch > 1:
            raise ValueError("old_log_probs=update is for one update of a rollout: inner_epochs=updates_per_epoch=1.")
        policy.decider.scores_rollouts = old_log_probs != "update"
        policy.check_group_size(group_size)
        objective.check_policy(policy)
        self.automatic_optimization = False
        self.objective = objective
        self.group_size = group_size
        self.inner_epochs = inner_epochs
        self.updates_per_epoch = updates_per_epoch
        self.microbatch_size = microbatch_size
        self.max_grad_norm = max_grad_norm
        self.skip_zero_advantages = skip_zero_advantages
        self.on_policy_tolerance = on_policy_tolerance
        self.old_log_probs = old_log_probs
        self.seed = seed
        self.overlap_rewards = overlap_rewards
        self.frozen_on_demand = frozen_on_demand
        self.data_anchor = data_anchor
        self.refill = refill
        self._photographs: Rollout | None = None
        self._grad_norms: dict[str, Tensor] = {}

    def check_policy(self, policy: Policy) -> None:
        """Raise ValueError if this module cannot train the policy."""
        if isinstance(policy, JointPolicy):
            raise ValueError("policy JointPolicy trains two policies; take realgen.modules.JointGRPOModule for it.")

    def check(self, datamodule: Any) -> None:
        """Raise ValueError if no decision trains, updates do not divide the rows, or a metric needs more images."""
        self.policy.check_trainable("model.policy")
        self.check_rows(getattr(datamodule, "prompts_per_iteration", self.updates_per_epoch))
        self.validation.check()
        if self.refill is not None:
            self.refill.check(self.reward, datamodule)

    def check_rows(self, prompts: int) -> None:
        """Raise ValueError if the updates do not divide the rows that this many prompts give a rank."""
        rows = prompts * self.group_size
        if rows % self.updates_per_epoch:
            raise ValueError(
                f"model.updates_per_epoch: expected a divisor of the {rows} rows of an iteration "
                f"(data.prompts_per_iteration={prompts} x model.group_size={self.group_size}), "
                f"got {self.updates_per_epoch}."
            )

    def training_step(self, batch: PromptBatch, batch_idx: int) -> dict[str, Any]:
        """Run one GRPO iteration on this rank's P prompts; return its ``rollout``, ``samples`` and ``rewards``.

        ValueError if ``updates_per_epoch`` does not divide the rows, or no decision counts; RuntimeError if no sample
        could be scored, or a gradient is not finite; OnPolicyError if the trained policy is not the one that sampled.
        """
        self.check_rows(len(batch.prompts))
        clock, evals = PhaseClock(self.device), self.policy.transformer_evals
        generator = iteration_generator(self.seed, self.global_rank, self.iteration)
        data = self.collect(batch, generator, clock)
        if self.data_anchor is not None:
            self._photographs = self.data_anchor.rollout(self.policy, data.batch, generator)
        with clock("update"):
            statistics = data.statistics | self.update_policies(data.updates, generator)
            self.iteration += 1
            self.policy.end_iteration(self.iteration)
        self._log_iteration(data.rollout, statistics, self.policy.transformer_evals - evals, clock)
        return {"rollout": data.rollout, "samples": data.rollout.samples(data.batch.metadata), "rewards": data.rewards}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the base class keeps, and the weights of the prompts that fill up."""
        super().on_save_checkpoint(checkpoint)
        if self.refill is not None:
            checkpoint["refill"] = self.refill.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the same; a run that only now begins to refill begins with equal weights."""
        super().on_load_checkpoint(checkpoint)
        if self.refill is not None and "refill" in checkpoint:
            self.refill.load_state_dict(checkpoint["refill"])

    def collect(self, batch: PromptBatch, generator: torch.Generator, clock: PhaseClock) -> IterationData:
        """Sample, score, and compare each sample with its group."""
        groups, seconds = self._draw(batch, generator, clock)
        statistics = {"busy_seconds/reward": torch.tensor(seconds), **self.reward_statistics(groups.rewards)}
        if self.refill is not None:
            groups, filled = self.refill.fill(
                groups,
                lambda more: self._draw(more, generator, clock)[0],
                getattr(self.trainer, "datamodule", None),
                self.policy.decider,
                iteration=self.iteration,
                seed=self.seed,
            )
            statistics |= filled
        batch, rollout, rewards, reference = groups
        advantages = self.advantages(rewards.mean_over_images(rollout.images_per_row), self.objective)
        statistics |= advantage_statistics(gather_first_axis(advantages))
        with clock("reference"):
            update = PolicyUpdate(
                self.policy, self.objective, rollout, advantages.flatten(), reference, **self.update_settings
            )
        return IterationData(batch, rollout, rewards, [update], statistics)

    def _draw(self, batch: PromptBatch, generator: torch.Generator, clock: PhaseClock) -> tuple[Groups, float]:
        """Sample and score; return the groups, and the seconds that their rewards took, waited for or not."""
        background = self.overlap_rewards and self.reward.overlaps(self.device)
        with BackgroundRewards(self.reward, batch.metadata, background=background) as scoring:
            with clock("rollout"):
                chunks = []
                how: dict[str, Any] = {"generator": generator, "iteration": self.iteration, "progress": self.progress}
                for chunk in self.policy.rollout_chunks(batch.prompts, self.group_size, **how):
                    scoring.start(chunk)  # while the next one is sampled
                    chunks.append(chunk)
                rollout = Rollout.concatenate(chunks)
            self._check_rollout(rollout, self.objective)
            with clock("reference"):
                reference = reference_score(self.policy, self.objective, rollout, self.microbatch_size)
            with clock("reward"):  # only what is still to be waited for
                rewards = scoring.rewards()
        return Groups(batch, rollout, rewards, reference), scoring.seconds

    def reward_statistics(self, rewards: RewardOutput) -> dict[str, Float[Tensor, ""]]:
        """Return the statistics of all ranks' rewards; raise RuntimeError if not one sample could be scored."""
        everywhere = gather_rewards(rewards)
        check_any_scored(everywhere, self.iteration)
        return reward_statistics(everywhere)

    def advantages(self, rewards: RewardOutput, objective: Objective) -> Float[Tensor, "prompts group"]:
        """Return this rank's advantages; the objective sees the rewards of all ranks, each with as many prompts."""
        return objective.advantages(gather_rewards(rewards)).chunk(world_size())[self.global_rank]

    def update_policies(
        self, updates: Sequence[PolicyUpdate], generator: torch.Generator
    ) -> dict[str, Float[Tensor, ""]]:
        """Take all optimizer steps of the iteration; return their statistics, joined over steps and ranks."""
        maxima = frozenset[str]().union(*(update.maxima for update in updates))
        statistics = []
        for epoch in range(self.inner_epochs):
            dealt = [shuffled_minibatches(update.num_rows, self.updates_per_epoch, generator) for update in updates]
            for index, minibatches in enumerate(zip(*dealt, strict=True)):
                statistics.append(self.update(updates, minibatches, first_update=epoch == index == 0))
        means = combine_ranks(combine_microbatches(statistics, [1.0] * len(statistics), maxima=maxima), maxima=maxima)
        return means | {name: value for update in updates for name, value in update.statistics.items()}

    def update(
        self, updates: Sequence[PolicyUpdate], minibatches: Sequence[Int[Tensor, "..."]], *, first_update: bool
    ) -> dict[str, Float[Tensor, ""]]:
        """Take one optimizer step, with the gradient of each policy's loss over its minibatch."""
        model, optimizer = self.trainer.strategy.model, self.optimizers()
        assert model is not None  # the strategy has set both up
        assert isinstance(optimizer, LightningOptimizer)
        optimizer.zero_grad()
        last, statistics = torch.zeros((), device=self.device), dict[str, Tensor]()
        for update, rows in zip(updates, minibatches, strict=True):
            loss, values = update.gradients(rows, model, self.manual_backward, first_update=first_update)
            last, statistics = last + loss, statistics | values
        if self.data_anchor is not None and self._photographs is not None:
            with gradient_sync(model, enabled=False):
                how = (self.policy, self._photographs, self.microbatch_size, self.manual_backward)
                statistics["objective/data_anchor"] = self.data_anchor.gradients(*how)
        with gradient_sync(model, enabled=True):  # in one pass: it must reach all weights that are averaged over ranks
            self.manual_backward(last)
        optimizer.step()  # clips first, in on_before_optimizer_step
        return statistics | self._grad_norms

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the averaged gradient's norm; RuntimeError if it is not finite and no loss scaler skips it."""
        self._grad_norms = {}
        for group in optimizer.param_groups:
            norm = whole(torch.nn.utils.clip_grad_norm_(group["params"], self.max_grad_norm)).detach().to(self.device)
            self._grad_norms[f"{group.get('prefix', '')}grad_norm"] = norm
            scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
            if not scaled and not bool(norm.isfinite()):
                raise RuntimeError(
                    f"the gradient's norm is {norm:.3g} in iteration {self.iteration}; the weights were left as they "
                    "are. Lower the learning rate or look for a non-finite reward or log-probability."
                )

    @property
    def update_settings(self) -> dict[str, Any]:
        """Arguments that every ``PolicyUpdate`` of this module gets."""
        # Texts of refilled groups are scored in calls of another length than where they were sampled.
        again = self.refill is not None and isinstance(self.policy.decider, PromptPolicy)
        return {
            "microbatch_size": self.microbatch_size,
            "tolerance": self.on_policy_tolerance,
            "old": "rescored" if again and self.old_log_probs == "rollout" else self.old_log_probs,
            "several_updates": self.inner_epochs * self.updates_per_epoch > 1,
            "skip_zero_advantages": self.skip_zero_advantages,
            "progress": self.progress,
        }

    def _check_rollout(self, rollout: Rollout, objective: Objective) -> None:
        sampled = rollout.sampled  # None of draws: `check_policy` has seen what they give
        if sampled and (missing := sorted(name for name in objective.requires if getattr(sampled, name) is None)):
            raise ValueError(f"policy {type(self.policy).__name__} has no {missing} in its rollout; see score_fields.")
        if not any_rank(bool(rollout.mask.any()), rollout.mask.device):
            why = "is noise_level 0, or were all prompts skipped, or all completions cut off and masked?"
            raise ValueError(f"policy {type(self.policy).__name__} took no decision that counts; {why}")

    def _log_iteration(
        self, rollout: Rollout, statistics: dict[str, Float[Tensor, ""]], transformer_evals: int, clock: PhaseClock
    ) -> None:
        lrs = {f"{group.get('prefix', '')}lr": group["lr"] for group in self.trainer.optimizers[0].param_groups}
        if isinstance(scheduler := self.lr_schedulers(), LRScheduler):
            scheduler.step()
        # "step" is Lightning's name of the x-axis; by default it lags one behind and counts optimizer updates.
        values = {"step": float(self.iteration), "iteration": float(self.iteration), **lrs, **clock.statistics()}
        # Rank 0 logs, and every rank draws as many images in about the same time.
        values["images_per_second"] = len(rollout.images) * world_size() / sum(clock.seconds.values())
        values["transformer_evals"] = float(transformer_evals)
        values |= self.policy.statistics(rollout)
        self.log_dict({**{name: value.float() for name, value in statistics.items()}, **values})
