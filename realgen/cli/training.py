"""Says and runs what the command line has made, and turns its end into an exit code."""

import contextlib
import os
import shlex
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from realgen.benchmark.report.page import REPORT_FILE
from realgen.callbacks import Report
from realgen.callbacks.progress import duration
from realgen.callbacks.run_context import callbacks_of, last_checkpoint, trained_of
from realgen.checkpoint_files import FOLDER, LAST
from realgen.checks import printable
from realgen.cli.arguments import first_config
from realgen.cli.component_keys import explain, explain_in_run
from realgen.cli.error_frame import INTERRUPTED, TERMINATED
from realgen.cli.realgen_cli import RealGenCLI
from realgen.cli.run_dir import RUN_DIR_VARIABLE, Run, resume_command
from realgen.cli.wandb_logger import finish_wandb
from realgen.failures import failure_counts, part_name, report_failure, wants_traceback
from realgen.masking import mask
from realgen.planning.forecast import read_measured
from realgen.policies.weight_copy import trained_weights
from realgen.rewards.base import Reward
from realgen.types import Samples

UNKNOWN_TIME = "told after the first iteration"


def first_lines(cli: RealGenCLI) -> str:
    """Return the lines of a parsed command line whose model is configured, each behind what it is about."""
    return "".join(f"{name:<12}{printable(text)}\n" for name, text in _lines(cli))


def _lines(cli: RealGenCLI) -> Iterator[tuple[str, str]]:
    trainer, model, data = cli.trainer, cli.model, cli.datamodule
    resumed = "" if cli.run.ckpt_path is None else f", goes on from {cli.run.ckpt_path}"
    yield "folder", f"{cli.run.path}{resumed}"
    yield "device", _device(trainer)
    trained = trained_of(model)
    subject = getattr(model, "detector", None) if trained is model else trained
    number = sum(weight.numel() for weight in trained_weights(trained).values())
    kind = "detector" if trained is model else "policy"
    yield kind, f"{type(subject or model).__name__}, {number:,} trainable parameters"
    epochs, batches = trainer.max_epochs, trainer.limit_train_batches
    limits = [epochs * batches] if epochs is not None and epochs > 0 and isinstance(batches, int) else []
    iterations = min([*limits, *([trainer.max_steps] if trainer.max_steps > 0 else [])], default=None)
    count = "until it is stopped" if iterations is None else str(iterations)
    prompts, group = getattr(data, "prompts_per_iteration", None), getattr(model, "group_size", None)
    yield "iterations", count if prompts is None else f"{count}, of {prompts} prompts x {group} samples each"
    reward = getattr(model, "reward", None)
    if reward is not None:
        weights = getattr(reward, "weights", {type(reward).__name__: 1.0})
        yield "rewards", ", ".join(f"{name} x {weight:g}" for name, weight in weights.items())
    yield "watch", _watched(cli)
    yield "time", UNKNOWN_TIME if iterations is None else _expected(cli.run, iterations)


def _device(trainer: Trainer) -> str:
    """Return what the run computes on, and how many GPUs lie idle meanwhile."""
    used, gpus = trainer.num_devices * trainer.num_nodes, torch.cuda.device_count()
    kind = trainer.strategy.root_device.type
    name = torch.cuda.get_device_name(trainer.strategy.root_device) if kind == "cuda" else kind
    idle = gpus - (trainer.num_devices if kind == "cuda" else 0)
    hint = f"--trainer.accelerator=gpu --trainer.devices={gpus}"
    return f"{used} x {name}" + (f"; {idle} of {gpus} GPUs lie idle, to use them: {hint}" if idle > 0 else "")


def _watched(cli: RealGenCLI) -> str:
    places = [str(cli.run.path / REPORT_FILE)] if callbacks_of(cli.trainer, Report) else []
    places.append(str(cli.run.path / "csv"))
    for logger in cli.trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            places.append(f"tensorboard --logdir {logger.log_dir}")
        if isinstance(logger, WandbLogger):
            online = "Weights & Biases, project {}".format(logger._wandb_init.get("project"))
            places.append(f"{cli.run.path / 'wandb'}, offline" if logger._offline else online)
    return "; ".join(places)


def _expected(run: Run, iterations: int) -> str:
    """Return how long it takes if it is as fast as the newest earlier run of the recipe beside it."""
    earlier = [path for path in run.path.parent.glob("*/csv") if path.parent != run.path]
    for folder in (path.parent for path in sorted(earlier, key=lambda path: path.stat().st_mtime, reverse=True)):
        with contextlib.suppress(ValueError, OSError):
            with (folder / "config.yaml").open(encoding="utf-8") as file:
                words = shlex.split(file.readline().partition(": ")[2])  # python -m realgen.fit ...
            if first_config(words[3:]) != run.recipe:
                continue
            seconds: dict[str, Any] = dict(read_measured(folder).seconds)
            each = sum(seconds.values())
            return f"about {duration(each * iterations)}, if as fast as {folder} ({each:.3g} s per iteration)"
    return UNKNOWN_TIME


def train(cli: RealGenCLI) -> int:
    """Train, tell how it ended, and return the exit code: 0, 1 after an error, 130 after Ctrl-C, 143 after SIGTERM.

    A ``ValueError`` before the run has begun, such as one of the data's ``setup``, leaves no folder behind.
    """
    code = _train(cli)
    finish_wandb(code)
    return code


def _train(cli: RealGenCLI) -> int:
    run = cli.run
    run.path.mkdir(parents=True, exist_ok=True)  # by the first process already
    first = "LOCAL_RANK" not in os.environ
    if first:
        os.environ[RUN_DIR_VARIABLE] = str(run.path)
    try:
        _validate_and_fit(cli)
    except SystemExit as stop:
        # Lightning turns Ctrl-C into exit code 1, and raises its SIGTERMException without a code.
        interrupted = isinstance(stop.__context__, KeyboardInterrupt)
        code = INTERRUPTED if interrupted else stop.code if isinstance(stop.code, int) else TERMINATED
        _say_how_to_go_on(cli)
        return code
    except Exception as error:  # whatever it was: a line for the user, and the traceback in a file
        if wants_traceback():
            raise
        # Past the data's setup; with several processes it always counts as begun.
        begun = cli.trainer.num_devices * cli.trainer.num_nodes > 1 or (run.path / "config.yaml").exists()
        if isinstance(error, ValueError) and run.path in run.made and not begun:
            finish_wandb(1)  # or it would go on writing there
            run.cleanup()
            sys.stderr.write(f"error: {printable(explain(error))}\n")
            return 1
        return _report(error, cli)
    finally:
        if first:
            os.environ.pop(RUN_DIR_VARIABLE, None)
        for line in failure_counts([*callbacks_of(cli.trainer, Callback), *cli.trainer.loggers]):
            sys.stderr.write(f"{line}\n")
    return 0


def _validate_and_fit(cli: RealGenCLI) -> None:
    run, before = cli.run, torch.get_float32_matmul_precision()
    for logger in list(cli.trainer.loggers):
        try:
            getattr(logger, "experiment", None)  # begins its run
        except Exception as error:  # a service or a disk may fail in any way
            report_failure(part_name(logger), error, "this run is not logged there")
            cli.trainer.loggers.remove(logger)
    torch.set_float32_matmul_precision(cli.config.float32_matmul_precision)
    try:
        if cli.config.baseline and run.ckpt_path is None:
            cli.trainer.validate(cli.model, cli.datamodule, verbose=False)
            if cli.trainer.received_sigterm:  # the fit would forget it
                raise SIGTERMException(TERMINATED)
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=run.ckpt_path, weights_only=True)
    finally:
        torch.set_float32_matmul_precision(before)


def _say_how_to_go_on(cli: RealGenCLI) -> None:
    run = cli.run
    if not cli.trainer.is_global_zero:
        return
    last = last_checkpoint(cli.trainer)
    if last.exists():
        usual = last == run.path / FOLDER / LAST
        command = resume_command(run, cli.argv, "last" if usual else last)
        lines = f"stopped; the last checkpoint is {last}\ngo on: {command}\n"
    else:
        again = resume_command(run, cli.argv, "last")  # which starts where there is no checkpoint
        lines = f"start again: {again}\nstopped before the first checkpoint of {run.path}\n"
    sys.stderr.write(lines)


def _report(error: Exception, cli: RealGenCLI) -> int:
    log = cli.run.path / f"error{cli.trainer.global_rank or ''}.log"
    text = mask("".join(traceback.format_exception(error)))
    try:
        log.write_text(text, encoding="utf-8", errors="backslashreplace")
        where = f"traceback: {log}"
    except OSError as failure:
        where = f"its traceback could not be written: {failure}; REALGEN_TRACEBACK=1 shows it"
    _say_how_to_go_on(cli)
    sample = failing_sample(error)
    at = "" if sample is None else f" (at {sample})"
    sys.stderr.write(f"error: {printable(explain_in_run(error))}{printable(at)}\n       {where}\n")
    return 1


@torch.no_grad()
def failing_sample(error: Exception) -> str | None:
    """Return the sample at which a reward failed, by scoring each alone; None if none did, or not for a sample."""
    found: tuple[Reward, Samples] | None = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        names = frame.f_locals
        samples = next((value for value in names.values() if isinstance(value, Samples)), None)
        if isinstance(names.get("self"), Reward) and frame.f_code.co_name == "score" and samples is not None:
            found = names["self"], samples  # the innermost of them
    if found is None or not found[0].fails_by_sample or isinstance(error, torch.OutOfMemoryError | MemoryError):
        return None
    reward, samples = found
    for row, prompt in enumerate(samples.row_prompts):
        try:
            reward.score(_one(samples, row))
        except Exception as again:  # a reward may raise anything
            if type(again) is type(error):
                return f"sample {row % samples.group_size + 1} of {samples.group_size} of {prompt[:80]!r}"
    return f"{len(samples.images)} samples together, the first of {samples.prompts[0][:80]!r}"


def _one(samples: Samples, row: int) -> Samples:
    prompt, rewrites = row // samples.group_size, samples.rewrites
    return Samples(
        (samples.prompts[prompt],),
        1,
        samples.images[row : row + 1],
        None if rewrites is None else rewrites[row : row + 1],
        samples.metadata[prompt : prompt + 1],
    )
