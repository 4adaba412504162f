"""A copy of a network's trained weights that follows them: averages for evaluation, lagged weights that sample."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from realgen.checks import check_at_least
from realgen.parallel import local_part, reshard
from realgen.policies.whole_weights import placed_like


class WeightCopy:
    """Weights beside the trained ones, in float32 or better; of sharded weights each rank keeps its own shards."""

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}
        """By parameter name; empty before ``start``."""

    def start(self, trained: nn.Module) -> None:
        """Copy the current weights, unless there are some already (of a resumed run), which move to their device."""
        reshard(trained)
        if not self.weights:
            self.weights = {
                name: p.detach().to(torch.promote_types(p.dtype, torch.float32)).clone()
                for name, p in trained_weights(trained).items()
            }
        self.place(trained)

    @torch.no_grad()
    def follow(self, trained: nn.Module, decay: float) -> None:
        """Set the copy to decay * copy + (1 - decay) * weights."""
        reshard(trained)
        parameters = trained_weights(trained)
        live = [local_part(p.detach()) for p in parameters.values()]
        copies = [local_part(self.weights[name]) for name in parameters]  # read in another order, maybe
        torch._foreach_lerp_(copies, [p.to(c.dtype) for p, c in zip(live, copies, strict=True)], 1 - decay)

    @contextmanager
    def applied(self, trained: nn.Module) -> Iterator[None]:
        """Swap in the copy inside this context; without one yet, do nothing."""
        reshard(trained)
        parameters = trained_weights(trained) if self.weights else {}
        self.place(trained)
        live = {name: p.detach().clone() for name, p in parameters.items()}
        _copy(self.weights, parameters)
        try:
            yield
        finally:
            reshard(trained)
            _copy(live, parameters)

    def place(self, trained: nn.Module) -> None:
        """Move the copy to where the weights are: device, and shards if they are sharded."""
        parameters = trained_weights(trained)
        for name, copy in self.weights.items():
            if copy.device != parameters[name].device or type(copy) is not type(parameters[name].data):
                self.weights[name] = placed_like(copy, parameters[name])


@dataclass(frozen=True)
class Lag:
    """How a copy follows the trained weights, once an iteration: copy <- d * copy + (1 - d) * weights.

    After iteration t, counted from 1, d = min(rate * max(0, t - flat), most): the copy is the trained weights for
    ``flat`` iterations, and lags more and more from then on. DiffusionNFT's decay types (arXiv:2509.16117) are, as
    (flat, rate, most): 0 is (0, 0, 0), 1 is (0, 0.001, 0.5), 2 is (75, 0.0075, 0.999). ValueError if a number is out of
    its range.

    Args:
        flat: Iterations at the start without lag, at least 0.
        rate: Growth of d with each iteration, at least 0.
        most: Largest d, 0 to below 1.
    """

    flat: int = 0
    rate: float = 0.001
    most: float = 0.5

    def __post_init__(self) -> None:
        check_at_least(0, flat=self.flat, rate=self.rate)
        if not 0 <= self.most < 1:
            raise ValueError(f"most must be 0 to below 1, got {self.most}.")

    def decay(self, iteration: int) -> float:
        """Return d after an iteration, counted from 1."""
        return min(self.rate * max(0, iteration - self.flat), self.most)


class LaggedWeights(WeightCopy):
    """A copy of the trained weights that lags behind them; kept in checkpoints to the bit."""

    def __init__(self, lag: Lag) -> None:
        super().__init__()
        self.lag = lag
        self.lags = False
        """Whether the copy may differ from the trained weights."""

    def end_iteration(self, trained: nn.Module, iteration: int) -> None:
        """Follow the trained weights after an iteration, counted from 1."""
        decay = self.lag.decay(iteration)
        self.follow(trained, decay)
        self.lags = decay > 0

    def state_dict(self) -> dict[str, Any]:
        """Return the weights, the very tensors: sharded ones are for the strategy to write or to gather."""
        return {"lags": self.lags, "weights": dict(self.weights)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the weights; they move to the trained ones' device when they are first used."""
        self.lags, self.weights = state_dict["lags"], dict(state_dict["weights"])


def trained_weights(trained: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that require a gradient, by name."""
    return {name: parameter for name, parameter in trained.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Any]) -> None:
    for name, parameter in target.items():
        parameter.copy_(source[name])
