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
from jsonargparse import ArgumentError, set_dumper
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from omegaconf.errors import OmegaConfBaseException

from realgen import __version__
from realgen.cli.arguments import asks_for_help, first_config, read_arguments, split_print_config
from realgen.cli.components import visit
from realgen.cli.config_error import ConfigError
from realgen.cli.diagnosis import blame, condense, problems
from realgen.cli.matmul_precision import MatmulPrecision, SetMatmulPrecision
from realgen.cli.quiet import drop_anonymous, quiet_lightning, quiet_wandb
from realgen.cli.run_dir import LAST, Run, find_run
from realgen.cli.save_config import SaveConfig
from realgen.cli.schema import Place, group_of, place_of
from realgen.cli.tree import Node


class RealGenCLI(LightningCLI):
    """Parses a config, instantiates what it names, and places the run on disk; starts nothing.

    All that it writes is the empty folder of a new run, which keeps others from taking the name; a config that is wrong
    leaves none.

    Beyond LightningCLI: callbacks and loggers stand in dicts (``callbacks.summary``, ``loggers.wandb``), so that an
    overlay changes one of them; files and arguments merge by the rules of ``realgen.cli.tree``; whatever is wrong is a
    ``ConfigError`` of one or two lines. Checkpoints, logs and ``trainer.default_root_dir`` follow the run's folder.

    Args:
        model_class: Class from which the model must derive.
        datamodule_class: Class from which the data must derive.
        usage: What ``--help`` says first.
        argv: Arguments without the program; ``sys.argv[1:]`` by default.

    Raises:
        ConfigError: If the config or an argument is wrong.
    """

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
        self._config_text = ""
        quiet_lightning()
        set_dumper("yaml", _to_yaml)
        self._root = _root(model_class, datamodule_class)
        self._tree = Node({})
        if not asks_for_help(self.argv):
            self._tree = read_arguments(split_print_config(self.argv)[0], self._root)
            for problem in problems(self._tree, self._root, values=False):
                raise ConfigError(problem)
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
            parser_kwargs={
                "parser_mode": "omegaconf+",
                "allow_abbrev": False,
                "exit_on_error": False,
                "usage": usage,
                "description": "",
            },
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what LightningCLI lacks when it runs no subcommand."""
        for name, (hint, default, text) in _ARGUMENTS.items():
            parser.add_argument(f"--{name}", type=hint, default=default, help=text)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Let jsonargparse check and complete what was read, into ``self.config``.

        Raises:
            ConfigError: If a value is wrong.
            SystemExit: After ``--help`` and ``--print_config``.
        """
        try:
            if asks_for_help(args):
                parser.parse_args(args)
            self.config = parser.parse_object(self._tree.plain())
        except OmegaConfBaseException as error:
            raise ConfigError(_interpolation_problem(error, self._tree)) from error
        except ArgumentError as error:
            found = [] if asks_for_help(args) else list(problems(self._tree, self._root))
            raise ConfigError(found[0] if found else condense(str(error))) from error
        flags = split_print_config(args)[1]
        if flags is not None:
            skip = "skip_default" in flags
            sys.stdout.write(parser.dump(self.config, skip_default=skip, skip_unset=skip))
            raise SystemExit(0)
        # Without what places this run, so that it starts the same run in another folder.
        saved = self.config.clone()
        saved.run_dir = saved.ckpt_path = None
        command = shlex.join(["python", "-m", "realgen.fit", *self.argv])
        text = parser.dump(saved, skip_unset=False)
        self._config_text = f"# realgen {__version__}: {command}\n{text}"

    def before_instantiate_classes(self) -> None:
        """Choose the folder of the run, and lead checkpoints and loggers there."""
        self.run = find_run(
            recipe=first_config(self.argv),
            run_dir=self.config.run_dir,
            output_dir=self.config.output_dir,
            ckpt_path=self.config.ckpt_path,
            environment=os.environ,
            now=datetime.now(),
        ).claim()
        self.config.trainer.default_root_dir = str(self.run.path)
        for _, arguments in _chosen(self.config.callbacks):
            if "dirpath" in arguments and arguments["dirpath"] is None:
                arguments["dirpath"] = str(self.run.path / LAST.parent)
        loggers = [arguments for name, arguments in _chosen(self.config.loggers) if name == WandbLogger.__name__]
        quiet_wandb(loggers)
        for arguments in loggers:
            for name, value in _wandb_arguments(self.run).items():
                if arguments[name] in (None, "."):
                    arguments[name] = value

    def instantiate_classes(self) -> None:
        """Make model, data and trainer.

        Raises:
            ConfigError: If a constructor refuses its arguments.
        """
        with self.run.given_back_on_error():
            try:
                super().instantiate_classes()
            except Exception as error:  # a constructor may raise anything
                raise ConfigError(self.blame(error)) from error

    def blame(self, error: Exception) -> str:
        """What an error says, led by the dotted key of the component that raised it."""
        places = visit(self._tree, self._root)
        groups = {key: place.owner for key, _, place in places if place.arguments is not None}
        return blame(error, yaml.safe_load(self._config_text), groups)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer with the callbacks and loggers of the config."""
        callbacks = [callback for callback in self.config_init.callbacks.values() if callback is not None]
        callbacks.append(SetMatmulPrecision(self.config_init.float32_matmul_precision))
        callbacks.append(SaveConfig(self._config_text, self.run.path / "config.yaml"))
        trainer_config = {**self.config_init.trainer, **kwargs}
        if trainer_config["logger"] is None:
            loggers = [logger for logger in self.config_init.loggers.values() if logger is not None]
            drop_anonymous(loggers)
            trainer_config["logger"] = [*loggers, CSVLogger(self.run.path, name="csv", flush_logs_every_n_steps=1)]
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


def _root(model_class: type, datamodule_class: type) -> Place:
    """What may stand at the top of a config."""
    return Place(
        arguments={
            "seed_everything": place_of(bool | int),
            **{name: place_of(hint) for name, (hint, _, _) in _ARGUMENTS.items()},
            "trainer": group_of(Trainer),
            "model": replace(place_of(model_class), required=True),
            "data": replace(place_of(datamodule_class), required=True),
        }
    )


def _to_yaml(value: Any) -> str:
    """As jsonargparse writes YAML, but also what has an enum's member for a default, such as Lightning's ``Timer``."""
    return yaml.safe_dump(_without_enums(value), sort_keys=False, allow_unicode=True)


def _without_enums(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_enums(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_without_enums(child) for child in value]
    return value.name if isinstance(value, Enum) else value


def _chosen(components: dict[str, Any]) -> list[tuple[str, Any]]:
    """Class name and arguments of the components that are not null."""
    specs = [spec for spec in components.values() if spec is not None]
    return [(spec["class_path"].rpartition(".")[2], spec.get("init_args", {})) for spec in specs]


def _wandb_arguments(run: Run) -> dict[str, str]:
    """A run that goes on keeps its id; an agent's run has one already."""
    arguments = {"save_dir": str(run.path), "name": run.name}
    return arguments if "WANDB_RUN_ID" in os.environ else {**arguments, "id": run.name}


def _interpolation_problem(error: OmegaConfBaseException, tree: Node) -> str:
    node: Node | None = tree
    for part in (error.full_key or "").split("."):
        node = node and node.child(part)
    key = (error.full_key or "").replace(".init_args.", ".")
    origin = f" ({node.origin})" if node is not None else ""
    return f"{key}: {str(error).splitlines()[0]}{origin}. Interpolations write init_args out: ${{model.init_args.x}}"
