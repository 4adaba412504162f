"""A watch that knows a hack from a gain: the reward rises, and what no reward sees does not."""

import logging
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from scipy.special import ndtri

from realgen.callbacks.best_checkpoint import BestCheckpoint
from realgen.callbacks.closing_screen import ClosingScreen
from realgen.callbacks.ema import EMA
from realgen.callbacks.export import Export
from realgen.callbacks.run_context import callbacks_of, fits, iteration_of, trained_of
from realgen.callbacks.summary import Comparison, compare, number, paired_differences
from realgen.checks import check_at_least, check_choice
from realgen.functional.estimate import Estimate
from realgen.parallel import is_sharded
from realgen.policies.base import Policy
from realgen.policies.weight_copy import WeightCopy, trained_weights

Action = Literal["tell", "stop", "lower_lr", "raise_kl", "roll_back"]
Seen = dict[str, Any]
"""A validation as ``Summary`` keeps it."""
_LOGGER = logging.getLogger(__name__)


class RewardWatch(Callback):
    """Raise an alarm when a validation's reward has risen and the measures that no reward sees say it is no gain.

    Each validation is compared with the first one, and with the best one so far by the first measure. It is an alarm if
    the reward rose by more than ``rise``, and a measure got worse, or, against the first one, not one got better.
    Better and worse mean beyond an interval that is paired over prompts, and so wide that all measures together get
    worse by chance in ``false_alarms`` of such comparisons. KL and entropy do not count: they tell how far a policy
    went and not where to. Beside a detector that learns the reward is by the detector of each validation, so that what
    it has learnt to see is no rise: the watch says so, and ``reward_rebased`` in its place is on the curves.

    An alarm is a warning that names the measures, the prompts and the setting to change; ``watch/alarms`` counts them.
    Then the ``action`` is taken. State is in the checkpoint. Needs ``Summary`` before it, which keeps the validations.
    ValueError if a number is out of its range, or the action or the order of callbacks does not suit the run.

    Args:
        measures: Names of the module's metrics, those most trusted first; null: all. One that a run does not measure,
            as without photographs, is left out.
        rise: In standard deviations of the first validation's rewards over prompts, >= 0.
        false_alarms: Above 0, at most 0.5.
        action: ``tell``: nothing more. ``stop``: end the fit. ``lower_lr``: multiply the learning rates by ``factor``.
            ``raise_kl``: divide the objectives' ``kl_coef`` by it. ``roll_back``: put back the weights of the last
            validation without alarm, and forget the optimizer's moments; not for sharded weights.
        factor: Above 0 and below 1.
    """

    def __init__(
        self,
        measures: Sequence[str] | None = None,
        rise: float = 0.5,
        false_alarms: float = 0.01,
        action: Action = "tell",
        factor: float = 0.5,
    ) -> None:
        check_at_least(0, rise=rise)
        check_choice("action", action, get_args(Action))
        if not 0 < false_alarms <= 0.5:
            raise ValueError(f"false_alarms must be above 0 and at most 0.5, got {false_alarms}.")
        if not 0 < factor < 1:
            raise ValueError(f"factor must be above 0 and below 1, got {factor}.")
        self.measures, self.rise, self.false_alarms = measures, rise, false_alarms
        self.action, self.factor = action, factor
        self.best: Seen | None = None
        """The best validation without alarm by the first measure, without images."""
        self.alarms: list[int] = []
        """Iterations of the validations with an alarm."""
        self.kl_scale = 1.0
        """By what ``kl_coef`` of the config is multiplied."""
        self.healthy = WeightCopy()
        """Weights of the last validation without alarm, for ``roll_back``; before one, those of the start."""
        self._penalties: list[tuple[Any, float]] = []  # objectives, each with the config's kl_coef

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the run has what the watch and its action need."""
        if not callbacks_of(trainer, ClosingScreen):
            raise ValueError("callbacks.watch needs callbacks.summary, which keeps the validations.")
        callbacks: list[Any] = getattr(trainer, "callbacks", [])
        later = callbacks[callbacks.index(self) :]
        if late := [type(each).__name__ for each in later if isinstance(each, (ClosingScreen, BestCheckpoint, EMA))]:
            raise ValueError(f"callbacks.watch must stand behind {', '.join(late)} among the callbacks.")
        found: list[Any] = [getattr(pl_module, name, None) for name in ("objective", "image_objective")]
        self._penalties = self._penalties or [(each, each.kl_coef) for each in found if hasattr(each, "kl_coef")]
        if self.action == "raise_kl" and not any(kl_coef for _, kl_coef in self._penalties):
            raise ValueError("callbacks.watch: action raise_kl needs an objective whose kl_coef is above 0.")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the weights of the start, unless a run goes on; name what is not measured, or not always alike."""
        if self.action == "roll_back":
            if is_sharded(pl_module):
                raise ValueError("callbacks.watch: action roll_back is not for sharded weights; take stop.")
            self.healthy.start(trained_of(pl_module))
        missing = [name for name in self.measures or () if name not in getattr(pl_module, "metrics", {})]
        if missing and trainer.is_global_zero:
            _LOGGER.warning("callbacks.watch: not watched, as this run does not measure it: %s", ", ".join(missing))
        if (learners := _learners(trainer)) and trainer.is_global_zero:
            told = "a validation's reward is by it as it is then; read reward_rebased too"
            _LOGGER.warning("callbacks.watch: %s learns, and %s.", learners, told)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Log the number of alarms so far, in the iteration's row."""
        pl_module.log("watch/alarms", float(len(self.alarms)))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the validation with the first one and with the best one."""
        screen = next(iter(callbacks_of(trainer, ClosingScreen)))
        if not fits(trainer) or screen.before is None:
            return
        seen = {key: value for key, value in (screen.after or screen.before).items() if key != "images"}
        if seen["iteration"] != iteration_of(pl_module):
            return
        metrics = getattr(pl_module, "metrics", {})
        higher = {name: metrics[name].higher_is_better for name in self.measures or metrics if name in metrics}
        words = [] if screen.after is None else self.judge(screen.before, seen, higher, first=True)
        if self.best is not None and not words:
            words = self.judge(self.best, seen, higher, first=False, spread=_spread(screen.before))
        words = trainer.strategy.broadcast(words)  # a rounding must not let ranks act differently
        if words:
            self.alarms.append(seen["iteration"])
            self._act(trainer, pl_module, words)
            return
        if self.action == "roll_back":
            self.healthy.follow(trained_of(pl_module), 0.0)
        main = next(iter(higher), None)
        if main is not None and (self.best is None or _is_better(seen, self.best, main, higher[main])):
            self.best = seen

    def judge(
        self, before: Seen, after: Seen, higher: dict[str, bool | None], *, first: bool, spread: float | None = None
    ) -> list[str]:
        """Return what is wrong with a validation against an earlier one, nothing if it is healthy.

        ``higher`` tells of each measure whether higher is better; ``first`` whether the earlier one is the untrained
        policy's, from which something must have got better. ``spread`` is of the first validation's rewards; by default
        of the earlier one's.
        """
        tests = max(len(higher), 1)
        widened = float(ndtri(1 - self.false_alarms / tests) / ndtri(0.975))
        differences = {n: _widened(e, widened) for n, e in paired_differences(before, after).items()}
        spread = _spread(before) if spread is None else spread
        reward = differences.get("reward", Estimate(None))
        if reward.low is None or reward.low <= self.rise * spread:
            return []
        told = compare(before["values"], after["values"], higher_is_better=higher, differences=differences)
        measures = [each for each in told if each.name in higher]
        since = f"since iteration {before['iteration']} the reward rose by {number(reward.value or 0)}"
        if worse := [each for each in measures if each.verdict == "worse"]:
            return [f"{since}, and {_words(each, before, after)}" for each in worse]
        if first and measures and not any(each.verdict == "better" for each in measures):
            return [f"{since}, and none of {', '.join(each.name for each in measures)} got better"]
        return []

    def _act(self, trainer: Trainer, module: LightningModule, words: Sequence[str]) -> None:
        if self.action == "roll_back":
            self._roll_back(trainer, module)
        iteration, bests = self.alarms[-1], callbacks_of(trainer, BestCheckpoint)
        older = any(best.value is not None and best.iteration < iteration for best in bests)
        done = {
            "tell": f"raise kl_coef{',' if older else ' or'} lower the learning rate{', or take best.ckpt' * older}",
            "stop": f"the run ends here; {'best.ckpt is from before, or ' * older}raise kl_coef",
            "lower_lr": f"the learning rate is multiplied by {self.factor}",
            "raise_kl": f"kl_coef is divided by {self.factor}",
            "roll_back": "the weights of the last validation without alarm, or of the start, are put back",
        }[self.action]
        if trainer.is_global_zero:
            moved = f" (by {learners} as it is now)" if (learners := _learners(trainer)) else ""
            told = "; ".join(words)
            _LOGGER.warning("alarm at iteration %d, the reward%s may be hacked: %s. %s.", iteration, moved, told, done)
        if self.action == "stop":
            trainer.should_stop = True
        elif self.action == "lower_lr":
            for optimizer in trainer.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] *= self.factor
            for config in trainer.lr_scheduler_configs:
                config.scheduler.base_lrs = [rate * self.factor for rate in config.scheduler.base_lrs]
        elif self.action == "raise_kl":
            self.kl_scale /= self.factor
            self._scale_kl()

    def _roll_back(self, trainer: Trainer, module: LightningModule) -> None:
        """Put the healthy weights back, wherever the present ones are kept or counted on."""
        trained = trained_of(module)
        with torch.no_grad():
            for name, weight in trained_weights(trained).items():
                weight.copy_(self.healthy.weights[name])
        for average in callbacks_of(trainer, EMA):
            average.copy.follow(trained, 0.0)
        for policy in (part for part in trained.modules() if isinstance(part, Policy)):
            for lagged in policy.lagged.values():
                lagged.follow(policy, 0.0)
        for optimizer in trainer.optimizers:
            optimizer.state.clear()
        for best in callbacks_of(trainer, BestCheckpoint):
            best.take_back()
        for export in callbacks_of(trainer, Export):
            export.export_again(trainer, module)

    def _scale_kl(self) -> None:
        for objective, kl_coef in self._penalties:
            objective.kl_coef = kl_coef * self.kl_scale

    def state_dict(self) -> dict[str, Any]:
        """Return the best validation, the alarms, the penalty's scale, and the weights to go back to."""
        state = {"best": self.best, "alarms": self.alarms, "kl_scale": self.kl_scale}
        return {**state, "healthy": dict(self.healthy.weights)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them, and the penalty of the objectives."""
        self.best, self.alarms = state_dict["best"], list(state_dict["alarms"])
        self.kl_scale, self.healthy.weights = state_dict["kl_scale"], dict(state_dict["healthy"])
        self._scale_kl()


def _learners(trainer: Trainer) -> str:
    """Return the names of the reward's parts that change during the run."""
    callbacks: list[Any] = getattr(trainer, "callbacks", [])
    return ", ".join(each.component for each in callbacks if getattr(each, "moves_reward", False))


def _spread(seen: Seen) -> float:
    """Return the standard deviation of a validation's rewards over prompts."""
    rewards = [value for value in seen.get("by_prompt", {}).get("reward", {}).values() if value == value]
    return float(torch.tensor(rewards).std(correction=0)) if rewards else 0.0


def _widened(estimate: Estimate, factor: float) -> Estimate:
    """Return a difference with ends as many times as far from it."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return estimate
    low, high = (estimate.value + factor * (end - estimate.value) for end in (estimate.low, estimate.high))
    return Estimate(estimate.value, low, high, estimate.count)


def _is_better(one: Seen, other: Seen, name: str, higher: bool | None) -> bool:
    change = one["values"].get(name, torch.nan) - other["values"].get(name, torch.nan)
    return change > 0 if higher or higher is None else change < 0


def _words(measure: Comparison, before: Seen, after: Seen) -> str:
    """Say how a measure changed, and at which prompts most: by itself, or by their reward where it is of all images."""
    low, high = measure.difference.low or 0, measure.difference.high or 0
    ends = f"{number(measure.before)} to {number(measure.after)}, change {number(low)} to {number(high)}"
    name = measure.name if measure.name in after.get("by_prompt", {}) else "reward"
    old, new = (each.get("by_prompt", {}).get(name, {}) for each in (before, after))
    sign = -1 if name == measure.name and measure.higher_is_better else 1
    moved = sorted(old.keys() & new.keys(), key=lambda key: -sign * (new[key] - old[key]))[:3]
    return f"{measure.name} got worse ({ends}), most at prompts {', '.join(moved)}"
