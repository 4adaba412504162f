"""Settings of the trainer that would do nothing, or fail late; each is answered by the key to use."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

from realgen.checks import nearest

_LIGHTNING_NAMES = {
    "strategy": ("auto", *StrategyRegistry.available_strategies()),
    "accelerator": ("auto", "gpu", *AcceleratorRegistry.available_accelerators()),
    "profiler": ("simple", "advanced", "pytorch", "xla"),
}
_REPLACED = {"gradient_clip_val": (None, "max_grad_norm"), "accumulate_grad_batches": (1, "microbatch_size")}
"""Settings of the trainer with their defaults, and the arguments of a module that takes its own optimizer steps which
stand for them."""
_DEVICES = re.compile(r"auto|-1|[1-9]\d*|(\d+,)+\d*")
_MAX_SEED = 2**32 - 1


def trainer_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the seed and the trainer's settings of a complete config, a line each."""
    seed, trainer = config["seed_everything"], config["trainer"]
    if not isinstance(seed, bool) and not 0 <= seed <= _MAX_SEED:
        yield f"seed_everything: expected a number from 0 to {_MAX_SEED}, or true for a random one, got {seed}."
    for name, (default, own) in _REPLACED.items():
        if trainer[name] != default and own in (config["model"].get("init_args") or {}):
            module = str(config["model"]["class_path"]).rpartition(".")[2]
            yield f"trainer.{name}: {module} takes its own optimizer steps. Use model.{own}"
    if trainer["default_root_dir"] is not None:
        yield "trainer.default_root_dir: a run writes into its own folder. Use run_dir or output_dir"
    for name in ("max_epochs", "max_steps"):
        if trainer[name] is not None and trainer[name] < 1 and trainer[name] != -1:
            yield f"trainer.{name}: expected at least 1, or -1 for no limit, got {trainer[name]}."
    for name in ("num_nodes", "check_val_every_n_epoch"):
        if trainer[name] is not None and trainer[name] < 1:
            yield f"trainer.{name}: expected at least 1, got {trainer[name]}."
    for name in ("epochs", "steps"):
        least, most = trainer[f"min_{name}"], trainer[f"max_{name}"]
        if least is not None and most is not None and 0 < most < least:
            yield f"trainer.min_{name}: expected at most trainer.max_{name}={most}, got {least}."
    devices = trainer["devices"]
    if not _DEVICES.fullmatch("".join(f"{each}," for each in devices) if isinstance(devices, list) else str(devices)):
        yield f"trainer.devices: expected a number, at least 1, auto, or a list such as [0, 1], got {devices!r}."
    batches = trainer["limit_train_batches"]
    if batches is not None and not batches >= 1:
        yield f"trainer.limit_train_batches: expected the iterations of an epoch, at least 1, got {batches}."
    interval = trainer["val_check_interval"]
    longest = batches if isinstance(batches, int) and trainer["check_val_every_n_epoch"] is not None else None
    if interval is not None and not 0 < interval <= (1 if isinstance(interval, float) else longest or interval):
        most = "" if longest is None else f" to trainer.limit_train_batches={longest}"
        yield (
            f"trainer.val_check_interval: expected iterations between two validations, from 1{most}, or a share of an "
            f"epoch up to 1.0, got {interval}. For every N epochs use trainer.check_val_every_n_epoch"
        )
    for name, known in _LIGHTNING_NAMES.items():
        if isinstance(trainer[name], str) and trainer[name] not in known:
            yield f"trainer.{name}: there is no {name} {trainer[name]!r}. {nearest(trainer[name], known)}".rstrip()
