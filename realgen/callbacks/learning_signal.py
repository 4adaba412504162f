"""Says when a run has nothing to learn from, and when it has diverged."""

import logging
import traceback
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from realgen.callbacks.run_context import iteration_of, trained_of
from realgen.checks import check_at_least
from realgen.parallel import local_part
from realgen.policies.weight_copy import trained_weights
from realgen.types import RewardOutput, Rollout

SHARE = "zero_variance_groups"
"""End of the names of the logged shares of groups whose advantages are all zero."""
EXPLODED = 10.0
"""Growth of the trained weights' norm from which an error is put down to divergence."""
_LOGGER = logging.getLogger(__name__)


class LearningSignal(Callback):
    """Name the cause when all advantages are zero for several iterations, or when an error comes from divergence.

    A run without a learning signal may recover, so it goes on unless ``stop_after`` is given. The line is repeated when
    the number of such iterations has doubled, and at the end of the fit.

    Args:
        warn_after: Iterations in a row without a learning signal before the first line, >= 1.
        stop_after: Such iterations after which the fit ends; null for never.
    """

    def __init__(self, warn_after: int = 3, stop_after: int | None = None) -> None:
        check_at_least(1, warn_after=warn_after, stop_after=stop_after)
        self.warn_after = warn_after
        self.stop_after = stop_after
        self.since: int | None = None
        """First iteration of the row that lasts until now; None while there is a learning signal."""
        self.first_norm: float | None = None
        """Norm of the trained weights (of this rank's shards) when the run began."""
        self._cause = ""
        self._told_growth = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the weights of a run that begins."""
        if self.first_norm is None:
            self.first_norm = _norm(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        """Count the iterations without a learning signal."""
        self._check_growth(trainer, pl_module)
        shares = [float(value) for name, value in trainer.callback_metrics.items() if name.endswith(SHARE)]
        if not shares or min(shares) < 1:
            self.since = None
            return
        iteration = iteration_of(pl_module)
        self.since = iteration if self.since is None else self.since
        self._cause = zero_cause(outputs["rewards"])
        count = iteration - self.since + 1
        if count % self.warn_after == 0 and (count // self.warn_after).bit_count() == 1:
            self._tell(trainer, count)
        if self.stop_after is not None and count >= self.stop_after:
            trainer.should_stop = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Repeat at the end that nothing was learned lately."""
        if self.since is not None:
            self._tell(trainer, iteration_of(pl_module) - self.since + 1)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put divergence before the message of an error that comes from it."""
        if not isinstance(exception, RuntimeError | ValueError) or not trainer.optimizers or self.first_norm is None:
            return
        norm, drawn = _norm(pl_module), _share_not_finite(exception)
        if norm <= EXPLODED * max(self.first_norm, 1e-6) and drawn < 0.5:  # the first is false for NaN
            return
        rates = ", ".join(f"{group['lr']:.3g}" for group in trainer.optimizers[0].param_groups)
        facts = [
            f"the trained weights' norm is {norm:.3g}, {self.first_norm:.3g} at the start",
            f"learning rate {rates}",
        ]
        if drawn:
            facts.insert(0, f"the policy draws NaN in {drawn:.0%} of its images")
        if self.since is not None:
            facts.append(f"all advantages zero since iteration {self.since}")
        exception.args = (
            f"the policy has diverged: {'; '.join(facts)}. Lower model.optimizer.lr, and go on from a checkpoint "
            f"before. It showed as: {str(exception).strip()}",
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the beginning of the row, and the norm at the start."""
        return {"since": self.since, "first_norm": self.first_norm}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self.since, self.first_norm = state_dict["since"], state_dict["first_norm"]

    def _check_growth(self, trainer: Trainer, module: LightningModule) -> None:
        """Warn once of weights that have grown as they do when the learning rate is far too high."""
        if self._told_growth or iteration_of(module) % self.warn_after or self.first_norm is None:
            return
        self._told_growth = (norm := _norm(module)) > EXPLODED * max(self.first_norm, 1e-6)
        if self._told_growth and trainer.is_global_zero:
            _LOGGER.warning(
                "the trained weights' norm is %.3g, %.3g at the start: is the learning rate too high?",
                norm,
                self.first_norm,
            )

    def _tell(self, trainer: Trainer, count: int) -> None:
        if trainer.is_global_zero:
            _LOGGER.warning(
                "all advantages are zero since iteration %d (%d iterations), so nothing is learned: %s.",
                self.since,
                count,
                self._cause,
            )


def zero_cause(rewards: RewardOutput) -> str:
    """Return why rewards give no advantage, with the components' ranges."""
    ranges = [f"{name} {_least(value):.3g} to {-_least(-value):.3g}" for name, value in rewards.components.items()]
    counted = rewards.valid.sum(1)
    if int(counted.max()) < 2:
        cause = "fewer than two samples of each group could be scored"
    elif any(not bool(torch.isfinite(value.nan_to_num() ** 2).all()) for value in rewards.components.values()):
        cause = "squares of these rewards are beyond float32; scale them down"
    else:
        cause = "all samples of a group get the same reward"
    return f"{cause} ({', '.join(ranges)})"


def _least(values: Tensor) -> float:
    return float(values.nan_to_num(torch.inf).min())


def _norm(module: LightningModule) -> float:
    weights = [local_part(weight.detach()).float() for weight in trained_weights(trained_of(module)).values()]
    return float(torch.stack([norm.cpu() for norm in torch._foreach_norm(weights)]).norm())


def _share_not_finite(error: BaseException) -> float:
    """Return the share of images with NaN in the rollout in whose iteration an error was raised; 0 if there is none."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for value in frame.f_locals.values():
            if isinstance(value, Rollout) and len(value.images):
                return 1 - float(value.images.isfinite().flatten(1).all(1).float().mean())
    return 0.0
