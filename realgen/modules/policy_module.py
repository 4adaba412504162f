"""A policy as Lightning sees it: loading, optimizer, validation and checkpoints; the training step is a subclass's."""

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch.optim.lr_scheduler import ReduceLROnPlateau

from realgen.metrics.base import ImageMetric
from realgen.modules.base import TrainableModule
from realgen.modules.validation import Validation
from realgen.phases import phase
from realgen.policies.base import Policy, Progress
from realgen.policies.diffusion_model import DiffusionModel, measured_rows, measuring
from realgen.policies.weight_copy import LaggedWeights
from realgen.rewards.base import Reward
from realgen.types import PromptBatch


class PolicyModule(TrainableModule):
    """Loads a policy, optimises and validates it, keeps its trained weights; ``GRPOModule`` explains the arguments."""

    frozen_on_demand = False
    """Whether frozen networks of policy and reward wait on the CPU while they do not compute."""

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
        if self.frozen_on_demand:
            wait_on_cpu(self.policy, self.reward)
        self.policy.load()

    def configure_optimizers(self) -> Any:
        """Build the optimizer of the trained parameters, and any scheduler; ValueError if nothing is trained."""
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

    def without_real_images(self) -> list[str]:
        """Leave out the metrics that need real images, and return their names."""
        names = self.validation.without_real_images()
        self.metrics = dict(self.validation.metrics)
        return names

    def on_fit_start(self) -> None:
        """Move the reward to the policy's device, start lagged weights; sum bfloat16 products alike for any rows."""
        if self.device.type == "cuda":
            # The second: no split sums, whose order depends on the rows of a call, so that rollout and score differ.
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = (False, False)
        self.reward.to(self.device)
        for lagged, policy in lagged_weights(self.policy).values():
            lagged.start(policy)
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
        results = {f"val/{name}": value for name, value in self.validation.results().items()}
        results["step"] = results["iteration"] = torch.tensor(float(self.iteration))
        # Equal on all ranks already; sync_dist tells Lightning that this is known. It averages them nevertheless, and
        # NCCL takes no CPU tensor.
        values = {name: value.to(self.device, torch.float32) for name, value in results.items()}
        self.log_dict(values, sync_dist=True, batch_size=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the iteration, and of the weights only the trained ones and those that lag behind them."""
        checkpoint["iteration"] = self.iteration
        names = _trained(self.policy)
        checkpoint["state_dict"] = {name: each for name, each in checkpoint["state_dict"].items() if name in names}
        if lagged := lagged_weights(self.policy):
            checkpoint["lagged"] = {name: weights.state_dict() for name, (weights, _) in lagged.items()}
        if rows := measured_rows(self.policy):
            checkpoint["rollout_batch_size"] = rows

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the iteration; ValueError if the checkpoint's weights are not the policy's, or lag behind."""
        self.iteration = checkpoint["iteration"]
        lagged, saved = lagged_weights(self.policy), checkpoint.get("lagged", {})
        if lagged.keys() != saved.keys():
            raise ValueError(
                f"the checkpoint must hold the lagged weights {sorted(lagged)} of this config's policy.draws.lagged, "
                f"it has {sorted(saved)}; resume with the config that wrote it."
            )
        for name, (weights, _) in lagged.items():
            weights.load_state_dict(saved[name])
        for part in measuring(self.policy):
            part.rollout_batch_size = checkpoint.get("rollout_batch_size", 0)  # of a run with a number: measured
        if "state_dict" in checkpoint:  # a sharded checkpoint brings its weights another way
            check_trained(checkpoint["state_dict"], self.policy)


def wait_on_cpu(policy: Policy, reward: Reward) -> None:
    """Let text encoders, decoders and the reward's networks wait on the CPU while they do not compute."""
    for part in policy.modules():
        if isinstance(part, DiffusionModel):
            part.backbone.frozen_on_demand = True
    for network in reward.networks:
        network.wait_on_cpu()


def lagged_weights(policy: Policy) -> dict[str, tuple[LaggedWeights, Policy]]:
    """Return the lagged weights of a policy and of those inside it, by name, each with the policy that it follows."""
    parts = [(prefix, part) for prefix, part in policy.named_modules() if isinstance(part, Policy)]
    return {f"{prefix}/{name}": (lagged, part) for prefix, part in parts for name, lagged in part.lagged.items()}


def check_trained(names: Iterable[str], policy: Policy) -> None:
    """Raise ValueError for a checkpoint that lacks weights that the policy trains, or holds others."""
    trained, saved = _trained(policy), set(names)
    for odd, meaning in ((trained - saved, "lacks"), (saved - trained, "holds, but the policy does not train,")):
        if odd:
            raise ValueError(
                f"the checkpoint {meaning} {len(odd)} of the policy's weights, such as {min(odd)}; resume with the "
                "policy (class, base model, LoRA rank and targets) that wrote it."
            )


def _trained(policy: Policy) -> set[str]:
    return {f"policy.{name}" for name in policy.trainable_parameters()}
