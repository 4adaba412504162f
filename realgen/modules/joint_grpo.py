"""GRPO of a language model and an image policy at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from realgen.metrics.base import ImageMetric
from realgen.modules.grpo_module import Experience
from realgen.modules.judging import Judge, mean_over_images, rewards_by_row
from realgen.modules.lesson import Lesson, check_pair, reference_score
from realgen.modules.phases import PhaseClock
from realgen.modules.prompt_grpo import PromptGRPO
from realgen.modules.statistics import advantage_statistics
from realgen.objectives.base import Objective
from realgen.parallel import gather_first_axis
from realgen.policies.joint_policy import JointPolicy
from realgen.rewards.base import Reward


class JointGRPO(PromptGRPO):
    """Trains a ``JointPolicy``: N images of each rewrite teach the rewriter and the image policy at the same time.

    A rewrite's reward is the mean over its N images, its group the G rewrites of the prompt; an image's group are the N
    images of its text. One optimizer holds both, the image policy's weights in a group of their own; gradients are
    clipped policy by policy. Statistics of the image policy begin with ``image/``.

    Args:
        policy: What is trained.
        reward: What judges the images, and the texts.
        objective: The GRPO variant of the rewriter: advantages and loss over tokens.
        image_objective: That of the image policy, over denoising steps.
        optimizer: Builds the optimizer from both policies' parameters.
        lr_scheduler: Builds a learning rate scheduler from the optimizer; it steps once per iteration.
        image_lr: Learning rate of the image policy; ``null``: the optimizer's.
        group_size: G, rewrites per prompt, >= 2.
        inner_epochs: How often an iteration goes through its rollout, >= 1.
        updates_per_epoch: Optimizer updates per inner epoch, >= 1; must divide prompts per rank times ``group_size``.
        microbatch_size: Rows per forward and backward pass, >= 1. Changes memory and speed, not the gradient.
        max_grad_norm: Gradients of a larger norm are scaled down to it, > 0; ``.inf`` only measures the norm.
        skip_zero_advantages: As in ``GRPOModule``.
        on_policy_tolerance: As in ``GRPOModule``, of both policies.
        metrics: Measures at validation that no reward ever sees, by name; ``null`` drops one.
        validation_samples_per_prompt: Images drawn of each validation prompt, >= 1.
        seed: Chooses every random number of training, together with rank and iteration.

    Raises:
        ValueError: If a number is out of its range.
    """

    policy: JointPolicy

    def __init__(
        self,
        policy: JointPolicy,
        reward: Reward,
        objective: Objective,
        image_objective: Objective,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        image_lr: float | None = None,
        group_size: int = 4,
        inner_epochs: int = 1,
        updates_per_epoch: int = 1,
        microbatch_size: int = 16,
        max_grad_norm: float = 1.0,
        skip_zero_advantages: bool = True,
        on_policy_tolerance: float = 1e-5,
        metrics: dict[str, ImageMetric | None] | None = None,
        validation_samples_per_prompt: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(
            policy=policy,
            reward=reward,
            objective=objective,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            group_size=group_size,
            inner_epochs=inner_epochs,
            updates_per_epoch=updates_per_epoch,
            microbatch_size=microbatch_size,
            max_grad_norm=max_grad_norm,
            skip_zero_advantages=skip_zero_advantages,
            on_policy_tolerance=on_policy_tolerance,
            metrics=metrics,
            validation_samples_per_prompt=validation_samples_per_prompt,
            seed=seed,
            overlap_rewards=False,  # nothing is left to do while they are judged
        )
        if image_lr is not None and not image_lr > 0:
            raise ValueError(f"image_lr must be above 0, got {image_lr}.")
        check_pair(policy.image_policy, image_objective)
        self.image_objective = image_objective
        self.image_lr = image_lr

    def parameter_groups(self) -> list[Any]:
        """The weights of both policies, each in a group of its own."""
        image: dict[str, Any] = {"params": list(self.policy.image_policy.trainable_parameters().values())}
        image |= {"prefix": "image/"} | ({} if self.image_lr is None else {"lr": self.image_lr})
        return [{"params": list(self.policy.rewriter.trainable_parameters().values())}, image]

    def experience(self, prompts: Sequence[str], generator: torch.Generator, clock: PhaseClock) -> Experience:
        """Write, draw and judge; what each image says of its text, and of how it was drawn."""
        with clock("rollout"):
            rewriting, drawing = self.policy.rollouts(prompts, self.group_size, generator=generator)
        self._check_rollout(rewriting, self.objective)
        self._check_rollout(drawing, self.image_objective)
        with clock("reward"), Judge(self.reward, background=False) as judge:
            judge.start(rewriting)
            rewards = judge.rewards()
        statistics = self.reward_statistics(rewards)
        lessons = []
        for policy, objective, rollout, judged, prefix in (
            (self.policy.rewriter, self.objective, rewriting, mean_over_images(rewards, drawing.group_size), ""),
            (
                self.policy.image_policy,
                self.image_objective,
                drawing,
                rewards_by_row(rewards, drawing.group_size),
                "image/",
            ),
        ):
            advantages = self.advantages(judged, objective)
            with clock("reference"):
                reference = reference_score(policy, objective, rollout, self.microbatch_size)
            lesson = Lesson(
                policy, objective, rollout, advantages.flatten(), reference, prefix=prefix, **self._lesson_settings
            )
            lessons.append(lesson)
            values = advantage_statistics(gather_first_axis(advantages))
            statistics |= {f"{prefix}{name}": value for name, value in values.items()}
        return Experience(rewriting, rewards, lessons, statistics)
