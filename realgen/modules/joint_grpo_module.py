"""GRPO of a language model and an image policy at once."""

from typing import Any

import torch

from realgen.modules.background_rewards import BackgroundRewards
from realgen.modules.grpo_module import GRPOModule, IterationData
from realgen.modules.policy_update import PolicyUpdate, reference_score
from realgen.modules.statistics import advantage_statistics
from realgen.objectives.base import Objective
from realgen.parallel import gather_first_axis
from realgen.phases import PhaseClock
from realgen.policies.base import Policy
from realgen.policies.joint_policy import JointPolicy
from realgen.rewards.base import Reward
from realgen.types import PromptBatch


class JointGRPOModule(GRPOModule):
    """Trains a ``JointPolicy``: N images of each rewrite train the rewriter and the image policy at the same time.

    A rewrite's reward is the mean over its N images, its group the G rewrites of the prompt; an image's group are the N
    images of its text. One optimizer holds both, the image policy's weights in a group of their own; gradients are
    clipped policy by policy. Statistics of the image policy begin with ``image/``. ValueError if a number is out of its
    range.

    Args:
        policy: The policies to train.
        reward: Scores the images, and the texts.
        objective: The GRPO variant of the rewriter: advantages and loss over tokens.
        image_objective: That of the image policy, over denoising steps.
        image_lr: Learning rate of the image policy; ``null``: the optimizer's.
        group_size: G, rewrites per prompt, >= 2.
        **settings: Of ``GRPOModule``. ``on_policy_tolerance`` is of both policies.
    """

    policy: JointPolicy

    def __init__(
        self,
        policy: JointPolicy,
        reward: Reward,
        objective: Objective,
        image_objective: Objective,
        *,
        image_lr: float | None = None,
        group_size: int = 4,
        **settings: Any,
    ) -> None:
        if settings.get("refill") is not None:
            raise ValueError("refill is for one policy, got one of two: leave model.refill out.")
        super().__init__(
            policy=policy,
            reward=reward,
            objective=objective,
            group_size=group_size,
            overlap_rewards=False,  # nothing is left to do while they are scored
            **settings,
        )
        if image_lr is not None and not image_lr > 0:
            raise ValueError(f"image_lr must be above 0, got {image_lr}.")
        image_objective.check_policy(policy.image_policy)
        self.image_objective = image_objective
        self.image_lr = image_lr

    def parameter_groups(self) -> list[Any]:
        """Return the weights of both policies, each in a group of its own."""
        image: dict[str, Any] = {"params": list(self.policy.image_policy.trainable_parameters().values())}
        image |= {"prefix": "image/"} | ({} if self.image_lr is None else {"lr": self.image_lr})
        return [{"params": list(self.policy.rewriter.trainable_parameters().values())}, image]

    def check_policy(self, policy: Policy) -> None:
        """Accept every policy of the constructor's type."""

    def collect(self, batch: PromptBatch, generator: torch.Generator, clock: PhaseClock) -> IterationData:
        """Write, draw and score; compare each rewrite with its prompt's group, and each image with its text's."""
        with clock("rollout"):
            how: dict[str, Any] = {"generator": generator, "iteration": self.iteration, "progress": self.progress}
            rewriting, drawing = self.policy.rollouts(batch.prompts, self.group_size, **how)
        self._check_rollout(rewriting, self.objective)
        self._check_rollout(drawing, self.image_objective)
        with clock("reward"), BackgroundRewards(self.reward, batch.metadata, background=False) as scoring:
            scoring.start(rewriting)
            rewards = scoring.rewards()
        statistics = self.reward_statistics(rewards)
        updates = []
        images = drawing.group_size
        for policy, objective, rollout, grouped, prefix in (
            (self.policy.rewriter, self.objective, rewriting, rewards.mean_over_images(images), ""),
            (self.policy.image_policy, self.image_objective, drawing, rewards.by_row(images), "image/"),
        ):
            advantages = self.advantages(grouped, objective)
            with clock("reference"):
                reference = reference_score(policy, objective, rollout, self.microbatch_size)
                update = PolicyUpdate(
                    policy, objective, rollout, advantages.flatten(), reference, prefix=prefix, **self.update_settings
                )
            updates.append(update)
            values = advantage_statistics(gather_first_axis(advantages))
            statistics |= {f"{prefix}{name}": value for name, value in values.items()}
        return IterationData(batch, rewriting, rewards, updates, statistics)
