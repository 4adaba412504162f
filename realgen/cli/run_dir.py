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
from typing import Any

from realgen.checkpoint_files import FOLDER, LAST, check_checkpoint, newest_checkpoint, usable_checkpoints
from realgen.cli import ConfigError
from realgen.cli.arguments import without_options
from realgen.run_lock import LOCK_FILE, RunLock, is_first_process
from realgen.whole_files import remove_unfinished

RUN_DIR_VARIABLE = "REALGEN_RUN_DIR"
"""Set by the first process of a machine for those that Lightning's launcher starts."""


@dataclass(frozen=True)
class Run:
    """One run."""

    path: Path
    recipe: str
    """Stem of the first config file."""
    ckpt_path: Path | None = None
    """The checkpoint it goes on from."""
    chosen: str | None = None
    """What a new folder is called unless another one has the name; None where the folder was given."""
    made: tuple[Path, ...] = ()
    """The folder and those around it, the nearest first, that were made for this run."""
    lock: RunLock | None = None
    """Keeps other processes out of the folder, after ``reserve``."""

    @property
    def name(self) -> str:
        """Return the name for loggers; it stays the same when the run is resumed."""
        return f"{self.recipe}-{self.path.name}"

    def reserve(self, *, shared: bool = False, option: str = "run_dir") -> Run:
        """Make the folder, keep other processes out, and remove what a killed one left unfinished in it.

        A new folder gets a name of its own: another run may have begun since it was chosen. With ``shared``, processes
        come in that ask for the same. The returned run holds its folder until ``release``.
        ``option`` is the command's that chooses another folder.

        Raises:
            ConfigError: If another process works in the folder, or it cannot be made.
        """
        made = tuple(folder for folder in (self.path, *self.path.parents) if not folder.exists())
        path = self.path
        try:
            if self.chosen is None:
                path.mkdir(parents=True, exist_ok=True)
            else:
                for path in _numbered(self.path.parent, self.chosen):  # one that nobody else takes
                    with contextlib.suppress(FileExistsError):
                        path.mkdir(parents=True)
                        break
                made = (path, *made[1:])
            lock = RunLock(path, shared=shared, option=option)
        except OSError as error:
            raise ConfigError(f"{option}: cannot make {path}: {error.strerror}.") from error
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if lock.exclusive:
            remove_unfinished(path, others=(LOCK_FILE, "config.yaml"))  # of runs below it
        return replace(self, path=path, made=made, lock=lock)

    def release(self) -> None:
        """Let other processes into the folder."""
        if self.lock is not None:
            self.lock.release()

    def cleanup(self) -> None:
        """Remove the folders that were created for a run that did not begin, and let others in."""
        for folder in self.made[:1]:
            shutil.rmtree(folder)
        self.release()  # not before: who comes in then must not have it removed
        with contextlib.suppress(OSError):  # another run may have come into them by now
            for folder in self.made[1:]:
                folder.rmdir()

    @contextlib.contextmanager
    def cleanup_on_error(self) -> Iterator[None]:
        """Remove the created folders if the body does not finish, also after Ctrl-C."""
        with contextlib.ExitStack() as undo:
            undo.callback(self.cleanup)
            yield
            undo.pop_all()


def find_run(
    *,
    recipe: str,
    run_dir: str | None,
    output_dir: str,
    ckpt_path: str | None,
    environment: Mapping[str, str],
    now: datetime,
    checkpoints: str | None = None,
) -> Run:
    """Choose the folder of a run; looks at the disk and writes nothing, see ``Run.reserve``.

    A new run gets ``<output_dir>/<recipe>/<date>-<time>``, with the id of its SLURM job and, under an agent of a W&B
    sweep, of its trial behind it; the recipe is the stem of the first config file. All processes of a run agree: those
    that Lightning starts are told by the first one, those of torchrun and SLURM use the trial's id or the job's.

    ``ckpt_path`` is ``last`` for the newest run of the recipe that has a last checkpoint, or for that of ``run_dir``,
    which starts there if there is none; or a path. A checkpoint in ``RUN/checkpoints/`` goes on in RUN unless
    ``run_dir`` says otherwise. The run keeps its checkpoints in ``checkpoints``, by default in the folder of that name
    in its own.

    Raises:
        ConfigError: If the checkpoint does not exist, ``run_dir`` holds a run already, or several processes have no
            common id.
    """
    folder = Path(output_dir, recipe)
    shared = environment.get(RUN_DIR_VARIABLE) if "LOCAL_RANK" in environment else None
    if ckpt_path == "last":
        given = shared or run_dir
        path = Path(given) if given else _newest(folder)
        if path is None:
            raise ConfigError(f"ckpt_path: found no {FOLDER}/{LAST} in any run of {folder}. Leave it out to start.")
        return Run(path, recipe, newest_checkpoint(Path(checkpoints) if checkpoints else path / FOLDER))
    checkpoint = None
    if ckpt_path is not None:
        checkpoint = Path(ckpt_path)
        if not checkpoint.exists():
            raise ConfigError(f"ckpt_path: there is no {checkpoint}. Expected a checkpoint, or: last.")
        if run_dir is None and checkpoint.parent.name == FOLDER:
            run_dir = str(checkpoint.parent.parent)
    if shared:
        return Run(Path(shared), recipe, checkpoint)
    num_tasks = environment.get("SLURM_NTASKS", "1") if "SLURM_PROCID" in environment else "1"
    if run_dir is None and int(environment.get("WORLD_SIZE", num_tasks)) == 1:  # alone, or it starts the others
        ids = (environment.get("SLURM_JOB_ID"), _trial(environment))
        name = "-".join([now.strftime("%Y%m%d-%H%M%S"), *(each for each in ids if each is not None)])
        return Run(next(path for path in _numbered(folder, name) if not path.exists()), recipe, checkpoint, chosen=name)
    path = Path(run_dir) if run_dir else folder / _shared_name(environment)
    if (
        checkpoint is None
        and is_first_process(environment)
        and ((path / "config.yaml").exists() or (path / FOLDER).exists())
    ):
        raise ConfigError(
            f"run_dir: {path} holds a run already. Go on with it: --run_dir={path} --ckpt_path=last\n"
            "       Or choose another folder, or none."
        )
    return Run(path, recipe, checkpoint)


def _newest(folder: Path) -> Path | None:
    found = {path: newest_checkpoint(path / FOLDER) for path in folder.glob("*")}
    times = {path: checkpoint.stat().st_mtime for path, checkpoint in found.items() if checkpoint is not None}
    return max(times, key=lambda path: times[path], default=None)


def check_processes(environment: Mapping[str, str], *, devices: int, num_nodes: int) -> None:
    """Raise ConfigError, with the flags to give, unless the trainer takes all processes of torchrun, SLURM or MPI."""
    # More of them would train copies of one model in one folder, fewer would wait for the others without end.
    names = ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"]
    # In an interactive job, Lightning starts the processes itself.
    if "SLURM_PROCID" in environment and environment.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        names.append("SLURM_NTASKS")
    sizes = {name: int(environment[name]) for name in names if environment.get(name, "").isdigit()}
    variable = max(sizes, key=lambda name: sizes[name], default="WORLD_SIZE")
    started, expected = sizes.get(variable, 1), devices * num_nodes
    unranked = "RANK" not in environment and "SLURM_PROCID" not in environment
    if started > 1 and unranked and variable in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        raise ConfigError(
            f"trainer.devices: mpirun started {started} processes ({variable}), and does not tell them their ranks as "
            "the trainer reads them.\n       Start them by torchrun --nproc-per-node=N or srun, or one process and "
            "--trainer.devices=N."
        )
    waits = "TORCHELASTIC_RUN_ID" in environment or "LOCAL_RANK" in environment or "SLURM_NTASKS" in sizes
    if started == expected or (started < expected and not (waits and sizes)):
        return
    local = environment.get("LOCAL_WORLD_SIZE", "")
    nodes = started // int(local) if local.isdigit() and int(local) else int(environment.get("SLURM_NNODES", num_nodes))
    nodes = nodes if nodes and started % nodes == 0 else 1
    raise ConfigError(
        f"trainer.devices: {started} processes were started ({variable}={started}), but trainer.devices={devices} x "
        f"trainer.num_nodes={num_nodes} takes {expected}.\n"
        f"       Give --trainer.devices={started // nodes} --trainer.num_nodes={nodes}, or start {expected}."
    )


def _trial(environment: Mapping[str, str]) -> str | None:
    """Return the id that an agent of a W&B sweep gives all processes of a trial."""
    return environment.get("WANDB_RUN_ID") or None if "WANDB_SWEEP_ID" in environment else None


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


def resume_command(run: Run, argv: Sequence[str], ckpt_path: str | Path = "last") -> str:
    """Return the command line that goes on with a run that was started with ``argv``."""
    kept = without_options(argv, "run_dir", "ckpt_path")
    return shlex.join(["python", "-m", "realgen.fit", *kept, f"--run_dir={run.path}", f"--ckpt_path={ckpt_path}"])


def read_checkpoint(run: Run, argv: Sequence[str], *, verify: bool) -> dict[str, Any]:
    """Return what a checkpoint says, without its tensors; ConfigError, with an older one to use, if it is damaged."""
    assert run.ckpt_path is not None
    try:
        return check_checkpoint(run.ckpt_path, verify=verify)
    except ValueError as error:
        older = next(usable_checkpoints(run.ckpt_path.parent), None)
        cure = "There is no other one beside it." if older is None else f"Go on: {resume_command(run, argv, older)}"
        raise ConfigError(f"ckpt_path: {error}\n       {cure}") from error
