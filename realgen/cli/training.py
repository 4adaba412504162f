"""Runs what the command line has made, and turns its end into an exit code."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from dataclasses import replace

from lightning.pytorch.utilities.exceptions import SIGTERMException

from realgen.callbacks.run_context import last_checkpoint
from realgen.cli.component_keys import explain
from realgen.cli.error_frame import INTERRUPTED, TERMINATED, wants_traceback
from realgen.cli.realgen_cli import RealGenCLI
from realgen.cli.run_dir import LAST, RUN_DIR_VARIABLE, Run, resume_command


def train(cli: RealGenCLI) -> int:
    """Train what the command line has made, and tell how it ended.

    A ``ValueError`` before the run has begun, such as one of the data's ``setup``, leaves no folder behind.

    Args:
        cli: The parsed command line.

    Returns:
        Exit code: 0, 1 after an error, 130 after Ctrl-C, 143 after SIGTERM.
    """
    run = cli.run
    if not run.made:
        made = tuple(folder for folder in (run.path, *run.path.parents) if not folder.exists())
        run = replace(run, made=made)
        run.path.mkdir(parents=True, exist_ok=True)
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
        if isinstance(error, ValueError) and run.path in run.made and not _has_begun(cli):
            _discard(run)
            sys.stderr.write(f"error: {explain(error)}\n")
            return 1
        return _report(error, cli)
    finally:
        if first:
            os.environ.pop(RUN_DIR_VARIABLE, None)
    return 0


def _validate_and_fit(cli: RealGenCLI) -> None:
    run = cli.run
    if cli.config.baseline and run.ckpt_path is None:
        cli.trainer.validate(cli.model, cli.datamodule, verbose=False)
        if cli.trainer.received_sigterm:  # the fit would forget it
            raise SIGTERMException(TERMINATED)
    cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=run.ckpt_path, weights_only=True)


def _say_how_to_go_on(cli: RealGenCLI) -> None:
    run = cli.run
    if not cli.trainer.is_global_zero:
        return
    last = last_checkpoint(cli.trainer)
    if last.exists():
        command = resume_command(run, cli.argv)
        if last.resolve() == (run.path / LAST).resolve():
            last = run.path / LAST  # as the user wrote it
        else:
            command = command.replace("--ckpt_path=last", f"--ckpt_path={shlex.quote(str(last))}")
        lines = f"stopped; the last checkpoint is {last}\ngo on: {command}\n"
    else:
        lines = f"stopped before the first checkpoint of {run.path}\n"
    sys.stderr.write(lines)


def _has_begun(cli: RealGenCLI) -> bool:
    """Return whether the run is past the data's setup; with several processes it always counts as begun."""
    return cli.trainer.num_devices * cli.trainer.num_nodes > 1 or (cli.run.path / "config.yaml").exists()


def _discard(run: Run) -> None:
    import wandb

    wandb.finish(exit_code=1)  # or it would go on writing there
    run.cleanup()


def _report(error: Exception, cli: RealGenCLI) -> int:
    log = cli.run.path / f"error{cli.trainer.global_rank or ''}.log"
    log.write_text("".join(traceback.format_exception(error)))
    cause = explain(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    sys.stderr.write(f"error: {cause.splitlines()[0]}\n       traceback: {log}\n")
    return 1
