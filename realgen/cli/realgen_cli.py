"""LightningCLI with the rules of this project: strict keys, components that merge, one folder per run."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from enum import Enum
from typing import Any

import yaml
from jsonargparse import set_dumper
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger

from realgen import __version__
from realgen.callbacks.matmul_precision import MatmulPrecision, SetMatmulPrecision
from realgen.callbacks.save_config import SaveConfig
from realgen.cli.arguments import first_config
from realgen.cli.component_keys import ConfigPlace, constructing, instantiate
from realgen.cli.config_reader import PARSER_SETTINGS, document_fields, read_config
from realgen.cli.run_dir import LAST, Run, find_run
from realgen.cli.schema import ConfigSlot, group_of, slot_of
from realgen.cli.wandb_logger import drop_anonymous, fill_wandb_arguments
from realgen.logging_filters import quiet_lightning


class RealGenCLI(LightningCLI):
    """Parse a config, make what it names, and place the run on disk; nothing is started.

    All of it happens in the constructor: that of LightningCLI calls ``add_arguments_to_parser``, ``parse_arguments``,
    ``before_instantiate_classes`` and ``instantiate_classes`` in this order, which are overridden here. It writes only
    the empty folder of a new run, so that no other run takes the name; if the config is wrong, no folder is left.

    Beyond LightningCLI: callbacks and loggers stand in dicts (``callbacks.summary``, ``loggers.wandb``), so that an
    overlay changes one of them; files and arguments merge by the rules of ``realgen.cli.tree``; whatever is wrong is a
    ``ConfigError`` of one or two lines. Checkpoints, logs and ``trainer.default_root_dir`` go into the run's folder.

    Args:
        model_class: Class from which the model must derive.
        datamodule_class: Class from which the data must derive.
        usage: What ``--help`` says first.
        argv: Arguments without the program; ``sys.argv[1:]`` by default.

    Raises:
        ConfigError: If the config or an argument is wrong.
    """

    config_text: str
    """The whole config as YAML, under a comment with the command."""
    run: Run
    """Where the run lives and what it goes on from."""

    def __init__(
        self,
        model_class: type[LightningModule],
        datamodule_class: type[LightningDataModule],
        *,
        usage: str | None = None,
        argv: Sequence[str] | None = None,
    ) -> None:
        self.argv = list(sys.argv[1:] if argv is None else argv)
        self.config_text = ""
        self._root = _root(model_class, datamodule_class)
        quiet_lightning()
        set_dumper("yaml", _to_yaml)
        document_fields(self.argv)
        super().__init__(
            model_class,
            datamodule_class,
            run=False,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            save_config_callback=None,
            seed_everything_default=0,
            args=self.argv,
            parser_kwargs={**PARSER_SETTINGS, "usage": usage},
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what LightningCLI lacks when it runs no subcommand."""
        for name, (hint, default, text) in _ARGUMENTS.items():
            parser.add_argument(f"--{name}", type=hint, default=default, help=text)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Read files and arguments into ``self.config``, and keep it as text for the folder of the run.

        Raises:
            ConfigError: If the config or an argument is wrong.
            SystemExit: After ``--help`` and ``--print_config``.
        """
        self.config = read_config(parser, args, self._root)
        # Without what places this run, so that it starts the same run in another folder.
        saved = self.config.clone()
        saved.run_dir = saved.ckpt_path = None
        command = shlex.join(["python", "-m", "realgen.fit", *self.argv])
        self.config_text = f"# realgen {__version__}: {command}\n{parser.dump(saved, skip_unset=False)}"

    def before_instantiate_classes(self) -> None:
        """Choose the folder of the run, and lead checkpoints and loggers there."""
        self.run = find_run(
            recipe=first_config(self.argv),
            run_dir=self.config.run_dir,
            output_dir=self.config.output_dir,
            ckpt_path=self.config.ckpt_path,
            environment=os.environ,
            now=datetime.now(),
        ).reserve()
        self.config.trainer.default_root_dir = str(self.run.path)
        for callback in self.config.callbacks.values():
            arguments = {} if callback is None else callback.get("init_args", {})
            if "dirpath" in arguments and arguments["dirpath"] is None:
                arguments["dirpath"] = str(self.run.path / LAST.parent)
        fill_wandb_arguments(self.config.loggers, _wandb_arguments(self.run))

    def instantiate_classes(self) -> None:
        """Make model, data and trainer.

        Raises:
            ConfigError: If a constructor refuses its arguments.
        """
        with self.run.cleanup_on_error():
            self.config_init = instantiate(self.parser, self.config)
            self.model, self.datamodule = self.config_init.model, self.config_init.data
            self.trainer = self.instantiate_trainer()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer with the callbacks and loggers of the config."""
        callbacks = [callback for callback in self.config_init.callbacks.values() if callback is not None]
        callbacks.append(SetMatmulPrecision(self.config_init.float32_matmul_precision))
        callbacks.append(SaveConfig(self.config_text, self.run.path / "config.yaml"))
        trainer_config = {**self.config_init.trainer, **kwargs}
        if trainer_config["logger"] is None:
            loggers = [logger for logger in self.config_init.loggers.values() if logger is not None]
            drop_anonymous(loggers)
            trainer_config["logger"] = [*loggers, CSVLogger(self.run.path, name="csv", flush_logs_every_n_steps=1)]
        with constructing(ConfigPlace("trainer", trainer_config)):
            return self._instantiate_trainer(trainer_config, callbacks)


_ARGUMENTS: dict[str, tuple[Any, Any, str]] = {
    "callbacks": (dict[str, Callback | None], {}, "Callbacks by name; null drops one."),
    "loggers": (dict[str, Logger | None], {}, "Loggers by name; null drops one. A CSV is written beside them."),
    "float32_matmul_precision": (
        MatmulPrecision,
        "highest",
        "How float32 matrices are multiplied: highest, or high, with which GPUs may round factors to TF32, or medium.",
    ),
    "run_dir": (str | None, None, "Folder of the run; by default OUTPUT_DIR/RECIPE/DATE-TIME."),
    "output_dir": (str, "runs", "Where the folders of runs are made."),
    "ckpt_path": (str | None, None, "Go on from a checkpoint: last, or a path."),
    "baseline": (bool, True, "Validate before the first iteration of a new run, to compare with."),
}


def _root(model_class: type, datamodule_class: type) -> ConfigSlot:
    """Return what may stand at the top of a config."""
    return ConfigSlot(
        arguments={
            "seed_everything": slot_of(bool | int),
            **{name: slot_of(hint) for name, (hint, _, _) in _ARGUMENTS.items()},
            "trainer": group_of(Trainer),
            "model": replace(slot_of(model_class), required=True),
            "data": replace(slot_of(datamodule_class), required=True),
        }
    )


def _to_yaml(value: Any) -> str:
    """Write YAML as jsonargparse does, but also members of enums, such as a default of Lightning's ``Timer``."""
    return yaml.safe_dump(_without_enums(value), sort_keys=False, allow_unicode=True)


def _without_enums(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_enums(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_without_enums(child) for child in value]
    return value.name if isinstance(value, Enum) else value


def _wandb_arguments(run: Run) -> dict[str, str]:
    """Return folder, name and id of a run: a resumed run keeps its id, and one of an agent has an id already."""
    arguments = {"save_dir": str(run.path), "name": run.name}
    return arguments if "WANDB_RUN_ID" in os.environ else {**arguments, "id": run.name}
