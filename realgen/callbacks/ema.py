"""A moving average of the trained weights, for evaluation and export; training and rollouts keep the live weights."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from realgen.callbacks.run_context import callbacks_of, trained_of
from realgen.checks import check_at_least
from realgen.policies.weight_copy import WeightCopy


class EMA(Callback):
    """Exponential moving average: ema <- d * ema + (1 - d) * weight after every optimizer update.

    After t updates the next one takes d = min(decay, (1 + t) / (warmup + t)), so that the start is soon forgotten
    (as in RealGen's and diffusers' EMA; RealGen calls it more often than the weights change). The average starts at the
    weights of the first fit, is kept in float32 or better, replaces the live weights during validation, and is saved
    and resumed to the bit. Of sharded weights each rank averages its own shards.

    Not Lightning's ``EMAWeightAveraging``, which copies the whole module and does not take sharded ones. ValueError if
    a number is out of its range.

    Args:
        decay: Largest d, 0 to below 1. Roughly the last 1 / (1 - decay) updates count.
        warmup: >= 1. 1 takes ``decay`` from the first update on; 10 starts at d = 0.1.
    """

    def __init__(self, decay: float = 0.9, warmup: int = 10) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be 0 to below 1, got {decay}.")
        check_at_least(1, warmup=warmup)
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self.copy = WeightCopy()
        """The averages; empty before the first fit."""
        self._hook: Any = None
        self._swap = ExitStack()

    @property
    def weights(self) -> dict[str, Tensor]:
        """The averages by parameter name."""
        return self.copy.weights

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the averages, or move the resumed ones to the weights' device, and hook into the optimizer."""
        trained = trained_of(pl_module)
        self.copy.start(trained)
        (optimizer,) = trainer.optimizers
        self._hook = optimizer.register_step_post_hook(lambda *_: self.update(trained))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the hook from the optimizer."""
        self._hook.remove()

    def update(self, trained: nn.Module) -> None:
        """Update the averages with the current weights."""
        self.copy.follow(trained, min(self.decay, (1 + self.updates) / (self.warmup + self.updates)))
        self.updates += 1

    def applied(self, trained: nn.Module) -> AbstractContextManager[None]:
        """Swap in the averaged weights inside this context; without averages yet, do nothing."""
        return self.copy.applied(trained)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap in the averaged weights; behind ``on_validation_start``, where the live ones are saved."""
        self._swap.enter_context(self.applied(trained_of(pl_module)))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the live weights."""
        self._swap.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the live weights after an error in a validation."""
        self._swap.close()

    def state_dict(self) -> dict[str, Any]:
        """Return updates and averages, the very tensors: sharded ones are for the strategy to write or to gather."""
        return {"updates": self.updates, "weights": dict(self.weights)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the averages; they move to the weights' device when they are first used."""
        self.updates = state_dict["updates"]
        self.copy.weights = dict(state_dict["weights"])


@contextmanager
def averaged_weights(trainer: Trainer, trained: nn.Module) -> Iterator[None]:
    """Swap in the averages of the trainer's ``EMA`` inside this context; do nothing if there is none."""
    with ExitStack() as stack:
        for average in callbacks_of(trainer, EMA):
            stack.enter_context(average.applied(trained))
        yield
