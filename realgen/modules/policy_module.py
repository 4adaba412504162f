"""A policy as Lightning sees it: loading, optimizer, validation and checkpoints; the training step is a subclass's."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from realgen.metrics.base import ImageMetric
from realgen.modules.base import TrainableModule
from realgen.modules.validation import Validation
from realgen.phases import phase
from realgen.policies.base import Policy, Progress
from realgen.rewards.base import Reward
from realgen.types import PromptBatch


class PolicyModule(TrainableModule):
    """Loads a policy, builds its optimizer, validates it, and keeps its trained weights in checkpoints.

    Args:
        policy: The policy to train.
        reward: Scores the samples.
        optimizer: Builds the optimizer from the trained parameters.
        lr_scheduler: Builds a learning rate scheduler from the optimizer.
        metrics: Metrics at validation that no reward ever sees, by name; ``null`` drops one.
        validation_samples_per_prompt: Images drawn of each validation prompt, >= 1.
    """

    def __init__(
        self,
        policy: Policy,
        reward: Reward,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None,
        metrics: dict[str, ImageMetric | None] | None,
        validation_samples_per_prompt: int,
    ) -> None:
        super().__init__()
        self.strict_loading = False  # a checkpoint holds the trained weights alone
        self.policy = policy
        self.reward = reward
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = {name: metric for name, metric in (metrics or {}).items() if metric is not None}
        self.validation = Validation(self.metrics, samples_per_prompt=validation_samples_per_prompt)
        self.iteration = 0
        self.progress: Progress | None = None
        """Called while something long goes on; a progress bar sets it."""

    def configure_model(self) -> None:
        """Read the policy's weights; Lightning calls this before every fit and validation, ``load`` works once."""
        self.policy.load()

    def configure_optimizers(self) -> Any:
        """Build the optimizer of the trained parameters, and the scheduler if there is one.

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
        """Return what the optimizer is given: parameters, or groups of them with the ``prefix`` of their statistics."""
        return list(self.policy.trainable_parameters().values())

    def on_fit_start(self) -> None:
        """Move the reward to the policy's device."""
        self.reward.to(self.device)
        # Both are meant: a policy may keep its frozen host in eval mode, and the iteration is the data's cursor.
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")

    def on_validation_start(self) -> None:
        """Move the reward to the policy's device and forget the last validation."""
        self.reward.to(self.device)
        self.validation.start(self.device)

    @phase("validation")
    def validation_step(self, batch: PromptBatch, batch_idx: int) -> dict[str, Any]:
        """Draw and score images of held-out prompts; return ``samples``, ``rewards`` and ``seeds`` for callbacks."""
        return self.validation.step(self.policy, self.reward, batch, progress=self.progress)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/reward``, ``val/reward/<component>`` and ``val/<metric>``."""
        values = {f"val/{name}": value.float() for name, value in self.validation.results().items()}
        values["step"] = torch.tensor(float(self.iteration))
        # Equal on all ranks already; sync_dist only tells Lightning that this is known.
        self.log_dict(values, sync_dist=True, batch_size=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the iteration, and of the weights only the trained ones."""
        checkpoint["iteration"] = self.iteration
        checkpoint["state_dict"] = keep_trained(checkpoint["state_dict"], self.policy)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the iteration, and check that the checkpoint fits the policy.

        Raises:
            ValueError: If the checkpoint's weights are not those that the policy trains.
        """
        self.iteration = checkpoint["iteration"]
        if "state_dict" in checkpoint:  # a sharded checkpoint brings its weights another way
            check_trained(checkpoint["state_dict"], self.policy)


def keep_trained(state_dict: Mapping[str, Tensor], policy: Policy) -> dict[str, Tensor]:
    """Return the entries of a module's state dict that its ``policy`` trains."""
    names = _trained(policy)
    return {name: value for name, value in state_dict.items() if name in names}


def check_trained(names: Iterable[str], policy: Policy) -> None:
    """Raise ValueError for a checkpoint that another policy wrote.

    Args:
        names: Of the weights in the checkpoint.
        policy: The one to resume.

    Raises:
        ValueError: If the checkpoint lacks weights that the policy trains, or holds others.
    """
    trained, saved = _trained(policy), set(names)
    for odd, meaning in ((trained - saved, "lacks"), (saved - trained, "holds, but the policy does not train,")):
        if odd:
            raise ValueError(
                f"the checkpoint {meaning} {len(odd)} of the policy's weights, such as {min(odd)}; resume with the "
                "policy (class, base model, LoRA rank and targets) that wrote it."
            )


def _trained(policy: Policy) -> set[str]:
    return {f"policy.{name}" for name in policy.trainable_parameters()}
