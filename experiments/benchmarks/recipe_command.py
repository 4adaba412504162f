"""The command line that the benchmarks of whole recipes share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from measuring import leave
from rich.console import Console

from realgen.callbacks import EMA
from realgen.cli import ConfigError
from realgen.cli.realgen_cli import RealGenCLI
from realgen.modules import GRPOModule

ALONE: dict[str, Any] = {
    "max_epochs": 1, "max_steps": -1, "max_time": None, "limit_val_batches": 0, "num_sanity_val_steps": 0, "devices": 1,
    "num_nodes": 1, "strategy": "auto", "logger": False, "callbacks": None, "profiler": None,
    "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip
"""Settings of a trainer that only iterates, on one device."""


class BenchmarkCLI(RealGenCLI):
    """Makes model and data of a recipe, and a trainer that only iterates.

    Of the callbacks EMA alone stays, and the precision of float32 products.
    """

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer."""
        torch.set_float32_matmul_precision(self.config_init.float32_matmul_precision)
        callbacks = [callback for callback in self.config_init.callbacks.values() if isinstance(callback, EMA)]
        return self._instantiate_trainer({**self.config_init.trainer, **ALONE, **kwargs}, callbacks)


@dataclass(frozen=True)
class Command:
    """A benchmark of a recipe.

    Args:
        name: Of the file that it leaves, without ``.json``.
        about: What ``--help`` says.
        config: The recipe, if none is given.
        counted: What is repeated: the option's name.
        make: From the options that were given to the callback that measures.
        report: From that callback to what is left as JSON.
        show: Prints it.
        switches: More options that are on or off, and their help.
        common: Arguments between the configs and those of the user.
    """

    name: str
    about: str | None
    config: str
    counted: str
    make: Callable[[argparse.Namespace], Callback]
    report: Callable[[Any], dict[str, Any]]
    show: Callable[[dict[str, Any], Console], None]
    switches: tuple[tuple[str, str], ...] = ()
    common: tuple[str, ...] = ()

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """Run it.

        Args:
            argv: Arguments without the program; ``sys.argv[1:]`` by default.

        Returns:
            Exit code.
        """
        parser = argparse.ArgumentParser(description=self.about, allow_abbrev=False)
        add, counted = parser.add_argument, self.counted
        add("--config", action="append", help=f"recipe, and overlays (default: {self.config})")
        add(f"--{counted}", type=int, default=5, help=f"measured {counted}, >= 1 (default: %(default)s)")
        for name, text in self.switches:
            add(f"--{name}", action="store_true", help=text)
        add("--cpu_time", action="store_true", help="count CPU seconds, for a machine with other jobs")
        add("--output", type=Path, help=f"folder for {self.name}.json (default: print the JSON)")
        known, overrides = parser.parse_known_args(argv)
        number = getattr(known, counted)
        if number < 1:
            parser.error(f"--{counted} must be at least 1, got {number}.")
        configs = [f"--config={config}" for config in known.config or [self.config]]
        arguments = [*configs, *self.common, *overrides, f"--trainer.limit_train_batches={number + 1}"]
        try:
            cli = BenchmarkCLI(GRPOModule, LightningDataModule, argv=arguments)
        except ConfigError as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
        benchmark = self.make(known)
        cli.trainer.callbacks.append(benchmark)
        cli.trainer.fit(cli.model, cli.datamodule)
        result = {"arguments": arguments, **self.report(benchmark)}
        self.show(result, Console())
        leave(result, known.output, f"{self.name}.json")
        return 0
