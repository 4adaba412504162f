"""One GRPO iteration, written once for every policy, reward and objective."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from realgen.checks import check_at_least
from realgen.functional.advantages import rewards_std
from realgen.metrics.base import ImageMetric
from realgen.modules.base import Training
from realgen.modules.judging import Judge, mean_over_images
from realgen.modules.lesson import Lesson, check_pair, reference_score
from realgen.modules.minibatches import shuffled_minibatches
from realgen.modules.phases import PhaseClock
from realgen.modules.seeds import iteration_generator
from realgen.modules.statistics import (
    advantage_statistics,
    check_any_judged,
    combine_microbatches,
    combine_ranks,
    gather_rewards,
    reward_statistics,
)
from realgen.modules.trained_weights import check_trained, keep_trained
from realgen.modules.validation import Validation
from realgen.objectives.base import Objective
from realgen.parallel import any_rank, gather_first_axis, gradient_sync, whole
from realgen.policies.base import Policy
from realgen.policies.joined import concatenate_rollouts
from realgen.rewards.base import Reward
from realgen.types import PolicyScore, PromptBatch, RewardOutput, Rollout


class Experience(NamedTuple):
    """What an iteration has seen before it learns."""

    rollout: Rollout
    """What was sampled."""
    rewards: RewardOutput
    """Of each image."""
    lessons: list[Lesson]
    """What is to be learned of it; one per trained policy."""
    statistics: dict[str, Tensor]
    """Scalars to log, over all ranks."""


class GRPOModule(Training):
    """Trains a policy with GRPO (DeepSeekMath, arXiv:2402.03300, algorithm 1; Flow-GRPO, arXiv:2505.05470).

    One ``training_step`` is one iteration: rollout, rewards, advantages, updates. Optimisation is manual, so the
    Trainer's gradient clipping and accumulation are off; ``max_grad_norm`` and ``microbatch_size`` stand for them. A
    Lightning epoch is just ``limit_train_batches`` iterations. The learning rate scheduler steps once per iteration.

    All randomness of an iteration comes from (seed, rank, iteration), and ``iteration`` is in the checkpoint, so a
    resumed run goes on as if it had not stopped. The checkpoint holds trained weights only.

    Args:
        policy: What is trained.
        reward: What judges the samples.
        objective: The GRPO variant: advantages and loss.
        optimizer: Builds the optimizer from the trained parameters.
        lr_scheduler: Builds a learning rate scheduler from the optimizer; it steps once per iteration.
        group_size: G, samples per prompt, >= 2.
        inner_epochs: How often an iteration goes through its rollout, >= 1.
        updates_per_epoch: Optimizer updates per inner epoch, >= 1; must divide prompts per rank times ``group_size``.
        microbatch_size: Rows per forward and backward pass, >= 1. Changes memory and speed, not the gradient.
        max_grad_norm: Gradients of a larger norm are scaled down to it, > 0; ``.inf`` only measures the norm.
        skip_zero_advantages: Spare the passes of rows whose advantage is zero, when the objective has no KL. Exact, as
            their gradient is zero; statistics of the loss are then over the other rows. Does nothing with FSDP, where
            all ranks must make the same calls.
        on_policy_tolerance: Largest |ln ratio| that passes before the first update of an iteration; above it, the run
            stops and names the likely cause.
        metrics: Measures at validation that no reward ever sees, by name; ``null`` drops one.
        validation_samples_per_prompt: Images drawn of each validation prompt, >= 1.
        seed: Chooses every random number of training, together with rank and iteration.
        overlap_rewards: Judge in another thread while the policy goes on; exact. Off for a reward that cannot.

    Raises:
        ValueError: If a number is out of its range.
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
        on_policy_tolerance: float = 1e-5,
        metrics: dict[str, ImageMetric | None] | None = None,
        validation_samples_per_prompt: int = 1,
        seed: int = 0,
        overlap_rewards: bool = True,
    ) -> None:
        super().__init__()
        check_at_least(2, ": a group of one has no one to be better than", group_size=group_size)
        check_at_least(
            1, inner_epochs=inner_epochs, updates_per_epoch=updates_per_epoch, microbatch_size=microbatch_size
        )
        if not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be above 0 (.inf for no limit), got {max_grad_norm}.")
        check_at_least(0, on_policy_tolerance=on_policy_tolerance)
        policy.check_group_size(group_size)
        check_pair(policy, objective)
        self.automatic_optimization = False
        self.strict_loading = False
        self.policy = policy
        self.reward = reward
        self.objective = objective
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.group_size = group_size
        self.inner_epochs = inner_epochs
        self.updates_per_epoch = updates_per_epoch
        self.microbatch_size = microbatch_size
        self.max_grad_norm = max_grad_norm
        self.skip_zero_advantages = skip_zero_advantages
        self.on_policy_tolerance = on_policy_tolerance
        self.metrics = {name: metric for name, metric in (metrics or {}).items() if metric is not None}
        self.validation = Validation(self.metrics, samples_per_prompt=validation_samples_per_prompt)
        self.seed = seed
        self.overlap_rewards = overlap_rewards
        self.iteration = 0
        self._grad_norms: dict[str, Tensor] = {}

    def configure_model(self) -> None:
        """Read the policy's weights; Lightning calls this before every fit and validation, ``load`` works once."""
        self.policy.load()

    def configure_optimizers(self) -> Any:
        """Optimizer of the trained parameters, and the scheduler if there is one.

        Raises:
            ValueError: If the policy trains nothing, or the scheduler needs a metric.
        """
        if not self.policy.trainable_parameters():
            raise ValueError(f"policy {type(self.policy).__name__} has no trainable parameter after load().")
        optimizer = self.optimizer(self.parameter_groups())
        if self.lr_scheduler is None:
            return optimizer
        scheduler = self.lr_scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ValueError("lr_scheduler must not wait for a metric, got ReduceLROnPlateau; take one of the others.")
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def parameter_groups(self) -> list[Any]:
        """What the optimizer is given: parameters, or groups of them; ``prefix`` is that of a group's statistics."""
        return list(self.policy.trainable_parameters().values())

    def on_fit_start(self) -> None:
        """Move the reward to the policy's device."""
        self.reward.to(self.device)
        # Both are meant: a policy may keep its frozen host in eval mode, and the iteration is the data's cursor.
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")

    def training_step(self, batch: PromptBatch, batch_idx: int) -> dict[str, Any]:
        """One GRPO iteration.

        Args:
            batch: The P prompts of this rank.
            batch_idx: Not used; ``iteration`` counts over resumed runs.

        Returns:
            ``rollout`` and ``rewards`` of this rank, for callbacks.

        Raises:
            ValueError: If the score lacks what the objective needs, or ``updates_per_epoch`` does not divide the rows.
            RuntimeError: If no sample could be judged, or a gradient is not finite.
            OnPolicyError: If the policy that is trained is not the one that sampled.
        """
        self._check_rows(len(batch.prompts))
        clock = PhaseClock(self.device)
        generator = iteration_generator(self.seed, self.global_rank, self.iteration)
        self.policy.iteration = self.iteration
        seen = self.experience(batch.prompts, generator, clock)
        with clock("update"):
            statistics = seen.statistics | self.updates(seen.lessons, generator)
        self.iteration += 1
        self._log_iteration(seen.rollout, statistics, clock)
        return {"rollout": seen.rollout.by_image, "rewards": seen.rewards}

    def experience(self, prompts: Sequence[str], generator: torch.Generator, clock: PhaseClock) -> Experience:
        """Sample, judge, and see how good each sample is against its group."""
        with Judge(self.reward, background=self.overlap_rewards) as judge:
            with clock("rollout"):
                chunks = self.policy.rollout_chunks(prompts, self.group_size, generator=generator)
                rollout = concatenate_rollouts([judge.start(chunk) for chunk in chunks])
            self._check_rollout(rollout, self.objective)
            with clock("reference"):
                reference = self.reference_score(rollout)
            with clock("reward"):  # only what is still to be waited for
                rewards = judge.rewards()
        statistics = {"busy_seconds/reward": torch.tensor(judge.seconds), **self.reward_statistics(rewards)}
        advantages = self.advantages(mean_over_images(rewards, rollout.images_per_row), self.objective)
        lesson = Lesson(self.policy, self.objective, rollout, advantages.flatten(), reference, **self._lesson_settings)
        return Experience(rollout, rewards, [lesson], statistics | advantage_statistics(gather_first_axis(advantages)))

    def reward_statistics(self, rewards: RewardOutput) -> dict[str, Float[Tensor, ""]]:
        """What all ranks' rewards say; refuses an iteration that teaches nothing because the rewards failed."""
        everywhere = gather_rewards(rewards)
        check_any_judged(everywhere, self.iteration)
        return reward_statistics(everywhere)

    def advantages(self, rewards: RewardOutput, objective: Objective) -> Float[Tensor, "prompts group"]:
        """This rank's advantages; the global standard deviation, where it is asked for, is over all ranks."""
        std = None
        if objective.global_std:
            everywhere = gather_rewards(rewards)
            std = {name: rewards_std(part, everywhere.valid) for name, part in everywhere.parts.items()}
        return objective.advantages(rewards, std=std)

    def reference_score(self, rollout: Rollout) -> PolicyScore | None:
        """The reference's score of all rows, if the objective reads it."""
        return reference_score(self.policy, self.objective, rollout, self.microbatch_size)

    def updates(self, lessons: Sequence[Lesson], generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """All optimizer updates of the iteration; returns the mean of their statistics over updates and ranks."""
        statistics = []
        for epoch in range(self.inner_epochs):
            dealt = [shuffled_minibatches(lesson.num_rows, self.updates_per_epoch, generator) for lesson in lessons]
            for index, minibatches in enumerate(zip(*dealt, strict=True)):
                statistics.append(self.update(lessons, minibatches, watch=epoch == index == 0))
        means = combine_ranks(combine_microbatches(statistics, [1.0] * len(statistics)))
        return means | {f"{lesson.prefix}ratio/on_policy_deviation": lesson.guard.deviation for lesson in lessons}

    def update(
        self, lessons: Sequence[Lesson], minibatches: Sequence[Int[Tensor, "..."]], *, watch: bool
    ) -> dict[str, Float[Tensor, ""]]:
        """One optimizer update: the gradient of each lesson's loss over its minibatch, whatever the microbatches."""
        model, optimizer = self.trainer.strategy.model, self.optimizers()
        assert model is not None  # the strategy has set both up
        assert isinstance(optimizer, LightningOptimizer)
        optimizer.zero_grad()
        last, statistics = torch.zeros((), device=self.device), dict[str, Tensor]()
        for lesson, rows in zip(lessons, minibatches, strict=True):
            loss, values = lesson.study(rows, model, self.manual_backward, watch=watch)
            last, statistics = last + loss, statistics | values
        with gradient_sync(model, enabled=True):  # in one pass: it must see all weights that are averaged over ranks
            self.manual_backward(last)
        if watch:
            for lesson in lessons:
                lesson.guard.check()
        optimizer.step()  # clips first, in on_before_optimizer_step
        return statistics | self._grad_norms

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradient's norm; after loss scaling is undone and gradients are averaged over the ranks.

        Raises:
            RuntimeError: If the norm is not finite (unless a loss scaler will skip the update).
        """
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

    def on_validation_start(self) -> None:
        """Move the reward to the policy's device and forget the last validation."""
        self.reward.to(self.device)
        self.validation.start(self.device)

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> dict[str, Any]:
        """Draw and judge images of held-out prompts; returns ``rollout``, ``rewards`` and ``seeds`` for callbacks."""
        return self.validation.step(self.policy, self.reward, batch)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/reward``, ``val/reward/<part>`` and ``val/<metric>``."""
        values = {f"val/{name}": value.float() for name, value in self.validation.results().items()}
        values["step"] = torch.tensor(float(self.iteration))
        # Equal on all ranks already; sync_dist only tells Lightning that this is known.
        self.log_dict(values, sync_dist=True, batch_size=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the iteration, and of the weights only the trained ones."""
        checkpoint["iteration"] = self.iteration
        checkpoint["state_dict"] = keep_trained(checkpoint["state_dict"], self.policy)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the iteration, and see that the checkpoint fits the policy.

        Raises:
            ValueError: If the checkpoint's weights are not those that the policy trains.
        """
        self.iteration = checkpoint["iteration"]
        if "state_dict" in checkpoint:  # a sharded checkpoint brings its weights another way
            check_trained(checkpoint["state_dict"], self.policy)

    def policy_statistics(self, rollout: Rollout, seconds: dict[str, float]) -> dict[str, float]:
        """What only this kind of policy can say of an iteration; a subclass adds to it."""
        return {}

    @property
    def _lesson_settings(self) -> dict[str, Any]:
        return {
            "microbatch_size": self.microbatch_size,
            "tolerance": self.on_policy_tolerance,
            "skip_zero_advantages": self.skip_zero_advantages,
        }

    def _check_rows(self, prompts: int) -> None:
        if (rows := prompts * self.group_size) % self.updates_per_epoch:
            raise ValueError(
                f"updates_per_epoch={self.updates_per_epoch} must divide the rows of an iteration on each rank: "
                f"{prompts} prompts x group_size={self.group_size} = {rows}."
            )

    def _check_rollout(self, rollout: Rollout, objective: Objective) -> None:
        objective.check(rollout.sampled)
        if not any_rank(bool(rollout.mask.any()), rollout.mask.device):
            why = "is noise_level 0, or were all prompts skipped, or all completions cut off and masked?"
            raise ValueError(f"policy {type(self.policy).__name__} took no decision that counts; {why}")

    def _log_iteration(self, rollout: Rollout, statistics: dict[str, Float[Tensor, ""]], clock: PhaseClock) -> None:
        lrs = {f"{group.get('prefix', '')}lr": group["lr"] for group in self.trainer.optimizers[0].param_groups}
        if isinstance(scheduler := self.lr_schedulers(), LRScheduler):
            scheduler.step()
        # "step" is Lightning's name of the x-axis; by default it lags one behind and counts optimizer updates.
        step = float(self.iteration)
        own = self.policy_statistics(rollout, clock.seconds)
        extra = {"step": step, "iteration": step, **lrs, **clock.statistics(), **own}
        self.log_dict({**{name: value.float() for name, value in statistics.items()}, **extra})
