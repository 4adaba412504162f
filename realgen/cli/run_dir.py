"""Where a run lives on disk, and which checkpoint it goes on from. Looks at the disk, writes nothing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path

from realgen.cli.config_error import ConfigError

RUN_DIR_VARIABLE = "REALGEN_RUN_DIR"
"""Set by the first process of a machine for those that Lightning's launcher starts."""

LAST = Path("checkpoints", "last.ckpt")


@dataclass(frozen=True)
class Run:
    """One run."""

    path: Path
    """Its folder."""
    recipe: str
    """Stem of the first config file."""
    ckpt_path: Path | None = None
    """The checkpoint it goes on from."""

    @property
    def name(self) -> str:
        """A name for loggers, the same whenever the run goes on."""
        return f"{self.recipe}-{self.path.name}"


def find_run(
    *,
    recipe: str,
    run_dir: str | None,
    output_dir: str,
    ckpt_path: str | None,
    environment: Mapping[str, str],
    now: datetime,
) -> Run:
    """Choose the folder of a run.

    A new run gets ``<output_dir>/<recipe>/<date>-<time>``. All processes of a run agree: those that Lightning starts
    are told by the first one, those of torchrun and SLURM use the job's id.

    Args:
        recipe: Stem of the first config file.
        run_dir: The folder; ``None`` chooses one.
        output_dir: Where folders are chosen.
        ckpt_path: ``last`` for the newest run of the recipe that has a last checkpoint, or of ``run_dir``; or a path.
            A checkpoint in ``RUN/checkpoints/`` goes on in RUN unless ``run_dir`` says otherwise.
        environment: ``os.environ``.
        now: For the name of a new folder.

    Returns:
        The run.

    Raises:
        ConfigError: If the checkpoint does not exist, ``run_dir`` holds a run already, or several processes have no
            common id.
    """
    folder = Path(output_dir, recipe)
    told = environment.get(RUN_DIR_VARIABLE) if "LOCAL_RANK" in environment else None
    if ckpt_path == "last":
        given = told or run_dir
        path = Path(given) if given else _newest(folder)
        if path is None or not (path / LAST).exists():
            raise ConfigError(f"ckpt_path: found no {LAST} in {path or f'any run of {folder}'}. Leave it out to start.")
        return Run(path, recipe, path / LAST)
    checkpoint = None
    if ckpt_path is not None:
        checkpoint = Path(ckpt_path)
        if not checkpoint.exists():
            raise ConfigError(f"ckpt_path: there is no {checkpoint}. Expected a checkpoint, or: last.")
        if run_dir is None and checkpoint.parent.name == LAST.parent.name:
            run_dir = str(checkpoint.parent.parent)
    if told:
        return Run(Path(told), recipe, checkpoint)
    path = Path(run_dir) if run_dir else folder / _new_name(folder, environment, now)
    first = environment.get("RANK", environment.get("SLURM_PROCID", "0")) == "0"
    if checkpoint is None and first and ((path / "config.yaml").exists() or (path / LAST.parent).exists()):
        raise ConfigError(
            f"run_dir: {path} holds a run already. Go on with it: --run_dir={path} --ckpt_path=last\n"
            "       Or choose another folder, or none."
        )
    return Run(path, recipe, checkpoint)


def _newest(folder: Path) -> Path | None:
    found = [path for path in folder.glob("*") if (path / LAST).exists()]
    return max(found, key=lambda path: (path / LAST).stat().st_mtime, default=None)


def _new_name(folder: Path, environment: Mapping[str, str], now: datetime) -> str:
    job = environment.get("SLURM_JOB_ID")
    num_tasks = environment.get("SLURM_NTASKS", "1") if "SLURM_PROCID" in environment else "1"
    if int(environment.get("WORLD_SIZE", num_tasks)) > 1:
        elastic = environment.get("TORCHELASTIC_RUN_ID", "none")
        if job is None and elastic == "none":
            raise ConfigError(
                "run_dir: several processes were started, and they have no common id to name the run by.\n"
                "       Give --run_dir=FOLDER, or start torchrun with --rdzv-id=NAME."
            )
        return f"slurm-{job}" if job is not None else f"torchrun-{elastic}"
    time = now.strftime("%Y%m%d-%H%M%S") + (f"-{job}" if job is not None else "")
    names = (time if i == 1 else f"{time}_{i}" for i in count(1))
    return next(name for name in names if not (folder / name).exists())


def resume_command(run: Run, argv: Sequence[str]) -> str:
    """The command that goes on with a run from its last checkpoint.

    Args:
        run: The run.
        argv: The arguments it was started with.

    Returns:
        A line for the shell.

    Example:
        >>> resume_command(Run(Path("runs/a/1"), "a"), ["--config", "a.yaml", "--ckpt_path=last"])
        'python -m realgen.fit --config a.yaml --run_dir=runs/a/1 --ckpt_path=last'
    """
    kept = []
    arguments = iter(argv)
    for argument in arguments:
        option, equals, _ = argument.partition("=")
        if option in ("--run_dir", "--ckpt_path"):
            if not equals:
                next(arguments, None)
            continue
        kept.append(argument)
    return shlex.join(["python", "-m", "realgen.fit", *kept, f"--run_dir={run.path}", "--ckpt_path=last"])
