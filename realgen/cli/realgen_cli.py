"""LightningCLI with the rules of this project: strict keys, components that merge, one folder per run."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Literal

import torch
import yaml
from jsonargparse import set_dumper
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from realgen.callbacks import EMA, BestCheckpoint, Export, Preemption
from realgen.callbacks.due_validation import DueValidation
from realgen.callbacks.metrics_csv import MetricsCSV
from realgen.callbacks.run_context import callbacks_of, iteration_of
from realgen.callbacks.save_config import SaveConfig
from realgen.callbacks.wandb_run import WandbRun
from realgen.checkpoint_files import FOLDER, finished_iterations
from realgen.cli.arguments import first_config
from realgen.cli.component_keys import ConfigPlace, constructing, instantiate
from realgen.cli.config_reader import PARSER_SETTINGS, document_fields, keep_interpolations, read_config, to_yaml
from realgen.cli.run_dir import Run, check_processes, find_run, read_checkpoint
from realgen.cli.schema import ConfigSlot, group_of, slot_of
from realgen.cli.trainer_rules import trainer_problems
from realgen.cli.tree import origins
from realgen.cli.wandb_logger import drop_anonymous, fill_wandb_arguments
from realgen.failures import contain
from realgen.given_files import config_head
from realgen.logging_filters import quiet_lightning
from realgen.run_lock import is_first_process
from realgen.strategies.checkpoint import WholeFileIO

ESSENTIAL = (Checkpoint, EarlyStopping, Timer, BestCheckpoint, DueValidation, EMA, Export, Preemption)
"""Callbacks without which a run is another one: their errors end it."""
HOOKS = [
    name for name in dir(Callback) if name.startswith(("on_train_", "on_validation_")) and name != "on_train_start"
]
HOOKS += ["on_fit_end", "on_exception", "on_save_checkpoint", "state_dict", "teardown"]
"""Hooks of a run that has begun. Before, in ``setup`` or ``on_train_start``, nothing is lost by an error."""
LOGGING = ("log_metrics", "log_hyperparams", "log_graph", "log_image", "log_table", "log_text", "save", "finalize")


class RealGenCLI(LightningCLI):
    """Parse a config, make what it names, and place the run on disk; nothing is started.

    All of it happens in the constructor: that of LightningCLI calls ``add_arguments_to_parser``, ``parse_arguments``,
    ``before_instantiate_classes`` and ``instantiate_classes`` in this order, which are overridden here. It writes only
    the empty folder of a new run, so that no other run takes the name; if the config is wrong, no folder is left.

    Beyond LightningCLI: callbacks and loggers stand in dicts (``callbacks.summary``, ``loggers.wandb``), so that an
    overlay changes one of them; files and arguments merge by the rules of ``realgen.cli.tree``; whatever is wrong is a
    ``ConfigError`` of one or two lines. Checkpoints, logs and ``trainer.default_root_dir`` go into the run's folder.
    ConfigError if the config or an argument is wrong.

    Args:
        model_class: Class from which the model must derive.
        datamodule_class: Class from which the data must derive.
        usage: What ``--help`` says first.
        argv: Arguments without the program; ``sys.argv[1:]`` by default.
    """

    config_text: str
    """The whole config as YAML, interpolations as they were written, under a comment with the command."""
    run: Run
    """Where the run lives and what it goes on from."""
    checkpoint: dict[str, Any]
    """What the checkpoint that it goes on from says, without tensors; empty where it starts."""

    def __init__(
        self,
        model_class: type[LightningModule],
        datamodule_class: type[LightningDataModule],
        *,
        usage: str | None = None,
        argv: Sequence[str] | None = None,
    ) -> None:
        self.argv = list(sys.argv[1:] if argv is None else argv)
        self.config_text, self.config_sources, self.checkpoint = "", "", {}
        self.root = config_root(model_class, datamodule_class)
        quiet_lightning()
        set_dumper("yaml", to_yaml)
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
        for name, (hint, default, text) in ARGUMENTS.items():
            parser.add_argument(f"--{name}", type=hint, default=default, help=text)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Read files and arguments into ``self.config``, and keep it as text for the folder of the run."""
        self.config, tree = read_config(parser, args, self.root, check=trainer_problems)
        plain = yaml.safe_load(parser.dump(self.config, skip_unset=False))
        # Without what places this run, so that it starts the same run in another folder.
        saved = {**keep_interpolations(plain, tree), "run_dir": None, "ckpt_path": None}
        command = shlex.join(["python", "-m", "realgen.fit", *self.argv])
        self.config_text = f"{config_head(command)}{to_yaml(saved)}"
        placed = {key: child for key, child in tree.value.items() if key not in ("run_dir", "ckpt_path")}
        self.config_sources = "".join(f"{line}\n" for line in origins(replace(tree, value=placed)))

    def before_instantiate_classes(self) -> None:
        """Count the processes, choose the run's folder, keep others out, and lead checkpoints and loggers there."""
        trainer = self.config.trainer
        check_processes(os.environ, devices=_num_devices(trainer), num_nodes=trainer.num_nodes)
        find = partial(
            find_run,
            recipe=first_config(self.argv),
            run_dir=self.config.run_dir,
            output_dir=self.config.output_dir,
            ckpt_path=self.config.ckpt_path,
            environment=os.environ,
            now=datetime.now(),
            checkpoints=callback_argument(self.config.callbacks, "dirpath"),
        )
        self.run, first = find(), is_first_process(os.environ)
        if first:
            self.run = self.run.reserve()
        with self.run.cleanup_on_error():
            if first and self.run.chosen is None:  # once more, now that nobody else changes it
                self.run = replace(self.run, ckpt_path=find().ckpt_path)
            if self.run.ckpt_path is not None:
                self.checkpoint = read_checkpoint(self.run, self.argv, verify=first)
            if first and self.config.ckpt_path is not None:
                told = f"starts in {self.run.path}, which holds no checkpoint yet"
                if self.run.ckpt_path is not None:
                    done = finished_iterations(self.checkpoint)
                    told = f"goes on in {self.run.path} from iteration {done} ({self.run.ckpt_path})"
                print(told, flush=True)
        self.config.trainer.default_root_dir = str(self.run.path)
        for callback in self.config.callbacks.values():
            arguments = {} if callback is None else callback.get("init_args", {})
            if "dirpath" in arguments and arguments["dirpath"] is None:
                arguments["dirpath"] = str(self.run.path / FOLDER)
        for logger in self.config.loggers.values():
            if logger is not None and logger.get("init_args", {}).get("save_dir") == ".":
                logger["init_args"]["save_dir"] = str(self.run.path)
        name, group, model = self.run.name, self.run.recipe, self.config.model
        specs = [model, *vars(model.init_args).values()]
        tags = sorted({spec.class_path.rpartition(".")[2] for spec in specs if getattr(spec, "class_path", None)})
        self._wandb = fill_wandb_arguments(
            self.config.loggers, self.run.path, name=name, group=group, job_type="train", tags=tags
        )

    def instantiate_classes(self) -> None:
        """Make model, data and trainer; raise ConfigError if a constructor refuses its arguments."""
        with self.run.cleanup_on_error():
            self.config_init = instantiate(self.parser, self.config)
            self.model, self.datamodule = self.config_init.model, self.config_init.data
            for part in (self.model, self.datamodule):
                part._log_hyperparams = False  # as resolved values; SaveConfig logs them as they were written
            self.trainer = self.instantiate_trainer()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer with the callbacks and loggers of the config."""
        chosen = [callback for callback in self.config_init.callbacks.values() if callback is not None]
        callbacks: list[Callback] = [DueValidation(), *chosen]
        if self._wandb is not None:  # before the logger begins
            callbacks.append(WandbRun(self.run.path, self._wandb))
        callbacks.append(SaveConfig(self.config_text, self.run.path / "config.yaml", self.config_sources))
        trainer_config = {**self.config_init.trainer, **kwargs}
        if trainer_config["logger"] is None:
            loggers = [logger for logger in self.config_init.loggers.values() if logger is not None]
            drop_anonymous(loggers)
            count, fresh = partial(iteration_of, self.model), self.run.ckpt_path is None
            trainer_config["logger"] = [*loggers, MetricsCSV(self.run.path, iteration=count, fresh=fresh)]
        with constructing(ConfigPlace("trainer", trainer_config)):
            trainer = self._instantiate_trainer(trainer_config, callbacks)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeFileIO()
        contain_reports(trainer)
        return trainer


class ParsedConfig(RealGenCLI):
    """Parse and check a config; make nothing of it, and choose no folder."""

    def before_instantiate_classes(self) -> None:
        """Choose no folder."""

    def instantiate_classes(self) -> None:
        """Make nothing: the trainer would look for GPUs, and the components for data and weights."""


ARGUMENTS: dict[str, tuple[Any, Any, str]] = {
    "callbacks": (dict[str, Callback | None], {}, "Callbacks by name; null drops one."),
    "loggers": (dict[str, Logger | None], {}, "Loggers by name; null drops one. A CSV is written beside them."),
    "float32_matmul_precision": (
        Literal["highest", "high", "medium"],
        "highest",
        "How float32 matrices are multiplied: highest, or high, with which GPUs may round factors to TF32, or medium.",
    ),
    "run_dir": (str | None, None, "Folder of the run; by default OUTPUT_DIR/RECIPE/DATE-TIME."),
    "output_dir": (str, "runs", "Where the folders of runs are made."),
    "ckpt_path": (
        str | None,
        None,
        "Go on from a checkpoint: last, or a path. With run_dir, last starts where there is none yet.",
    ),
    "baseline": (bool, True, "Validate before the first iteration of a new run, to compare with."),
}


def callback_argument(callbacks: Mapping[str, Any], name: str) -> Any:
    """Return an argument of the first of a config's callbacks that is given it; None if none is."""
    arguments = ((each or {}).get("init_args") or {} for each in callbacks.values())
    return next((each[name] for each in arguments if each.get(name) is not None), None)


def config_root(model_class: type, datamodule_class: type) -> ConfigSlot:
    """Return what may stand at the top of a config."""
    return ConfigSlot(
        arguments={
            "seed_everything": slot_of(bool | int),
            **{name: slot_of(hint) for name, (hint, _, _) in ARGUMENTS.items()},
            "trainer": group_of(Trainer),
            "model": replace(slot_of(model_class), required=True),
            "data": replace(slot_of(datamodule_class), required=True),
        }
    )


def contain_reports(trainer: Trainer) -> None:
    """Let errors of callbacks and loggers be told in a line and cost no run.

    Those of ``ESSENTIAL`` callbacks still end it, but for ``on_exception``, where they would hide the error. With
    several processes, so do those of callbacks from elsewhere: a rank that goes on alone leaves the others waiting.
    """
    several = trainer.num_devices * trainer.num_nodes > 1
    for callback in callbacks_of(trainer, Callback):
        foreign = not type(callback).__module__.startswith("realgen.")
        hooks = (
            ["on_exception"]
            if isinstance(callback, ESSENTIAL) or getattr(callback, "essential", False) or (several and foreign)
            else HOOKS
        )
        contain(callback, [hook for hook in hooks if getattr(type(callback), hook) is not getattr(Callback, hook)])
    for logger in trainer.loggers:
        contain(logger, LOGGING)


def _num_devices(trainer: Any) -> int:
    """Return how many devices of this machine the trainer will take, as Lightning reads its arguments."""
    devices = trainer.devices
    if isinstance(devices, list) or "," in str(devices):
        return len(devices if isinstance(devices, list) else devices.rstrip(",").split(","))
    if str(devices).isdigit():
        return int(devices)
    gpus = torch.cuda.device_count() if trainer.accelerator in ("auto", "gpu", "cuda") else 0  # auto and -1: all
    return max(1, gpus)
