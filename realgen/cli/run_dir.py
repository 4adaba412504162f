"""Where a run lives on disk, and which checkpoint it goes on from."""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count
from pathlib import Path

from realgen.cli.arguments import without_options
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
    chosen: str | None = None
    """What a new folder is called unless another one has the name; None where the folder was given."""
    made: tuple[Path, ...] = ()
    """The folder and those around it, the nearest first, that were made for this run."""

    @property
    def name(self) -> str:
        """Return the name for loggers; it stays the same when the run is resumed."""
        return f"{self.recipe}-{self.path.name}"

    def reserve(self) -> Run:
        """Create a new folder, so that nobody else takes its name: another run may have begun since it was chosen.

        Returns:
            The run in the folder that it got; itself if its folder was given, or is shared by several processes.
        """
        if self.chosen is None:
            return self
        around = [folder for folder in self.path.parents if not folder.exists()]
        for path in _numbered(self.path.parent, self.chosen):
            with contextlib.suppress(FileExistsError):
                path.mkdir(parents=True)
                break
        return replace(self, path=path, made=(path, *around))

    def cleanup(self) -> None:
        """Remove the folders that were created for a run that did not begin."""
        for folder in self.made[:1]:
            shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # another run may have come into them by now
            for folder in self.made[1:]:
                folder.rmdir()

    @contextlib.contextmanager
    def cleanup_on_error(self) -> Iterator[None]:
        """Remove the created folders if the body does not finish, also after Ctrl-C."""
        done = False
        try:
            yield
            done = True
        finally:
            if not done:
                self.cleanup()


def find_run(
    *,
    recipe: str,
    run_dir: str | None,
    output_dir: str,
    ckpt_path: str | None,
    environment: Mapping[str, str],
    now: datetime,
) -> Run:
    """Choose the folder of a run; looks at the disk and writes nothing, see ``Run.reserve``.

    A new run gets ``<output_dir>/<recipe>/<date>-<time>``, with the id of its SLURM job and, under an agent of a W&B
    sweep, of its trial behind it. All processes of a run agree: those that Lightning starts are told by the first one,
    those of torchrun and SLURM use the trial's id or the job's.

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
    shared = environment.get(RUN_DIR_VARIABLE) if "LOCAL_RANK" in environment else None
    if ckpt_path == "last":
        given = shared or run_dir
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
    if shared:
        return Run(Path(shared), recipe, checkpoint)
    if run_dir is None and _is_alone(environment):
        name = _new_name(environment, now)
        return Run(next(path for path in _numbered(folder, name) if not path.exists()), recipe, checkpoint, chosen=name)
    path = Path(run_dir) if run_dir else folder / _shared_name(environment)
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


def _is_alone(environment: Mapping[str, str]) -> bool:
    """Return whether this is the only process of its run, or the one that will start the others."""
    num_tasks = environment.get("SLURM_NTASKS", "1") if "SLURM_PROCID" in environment else "1"
    return int(environment.get("WORLD_SIZE", num_tasks)) == 1


def _trial(environment: Mapping[str, str]) -> str | None:
    """Return the id that an agent of a W&B sweep gives all processes of a trial."""
    return environment.get("WANDB_RUN_ID") or None if "WANDB_SWEEP_ID" in environment else None


def _new_name(environment: Mapping[str, str], now: datetime) -> str:
    ids = (environment.get("SLURM_JOB_ID"), _trial(environment))
    return "-".join([now.strftime("%Y%m%d-%H%M%S"), *(each for each in ids if each is not None)])


def _shared_name(environment: Mapping[str, str]) -> str:
    """Return a name that all processes derive without communicating."""
    trial, job = _trial(environment), environment.get("SLURM_JOB_ID")
    if trial is not None:
        return f"wandb-{trial}"
    if job is not None:
        return f"slurm-{job}"
    elastic = environment.get("TORCHELASTIC_RUN_ID", "none")
    if elastic == "none":
        raise ConfigError(
            "run_dir: several processes were started, and they have no common id to name the run by.\n"
            "       Give --run_dir=FOLDER, or start torchrun with --rdzv-id=NAME."
        )
    return f"torchrun-{elastic}"


def _numbered(folder: Path, name: str) -> Iterator[Path]:
    """Yield NAME, NAME_2, NAME_3 ..."""
    yield folder / name
    for number in count(2):
        yield folder / f"{name}_{number}"


def resume_command(run: Run, argv: Sequence[str]) -> str:
    """Return the command that resumes a run from its last checkpoint.

    Args:
        run: The run.
        argv: The arguments it was started with.

    Returns:
        A line for the shell.

    Example:
        >>> resume_command(Run(Path("runs/a/1"), "a"), ["--config", "a.yaml", "--ckpt_path=last"])
        'python -m realgen.fit --config a.yaml --run_dir=runs/a/1 --ckpt_path=last'
    """
    kept = without_options(argv, "run_dir", "ckpt_path")
    return shlex.join(["python", "-m", "realgen.fit", *kept, f"--run_dir={run.path}", "--ckpt_path=last"])
