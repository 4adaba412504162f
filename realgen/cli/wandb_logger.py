"""Settings of the Weights & Biases loggers of a config that depend on the run, and how the run ends there."""

import os
import re
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from realgen.callbacks.wandb_run import identity_of
from realgen.cli.error_frame import INTERRUPTED

VARIABLES = {
    "id": "WANDB_RUN_ID",
    "name": "WANDB_NAME",
    "group": "WANDB_RUN_GROUP",
    "job_type": "WANDB_JOB_TYPE",
    "tags": "WANDB_TAGS",
    "resume": "WANDB_RESUME",
}
"""Variables of the environment by which an agent or a user sets an argument; they win over what is filled in here."""
LONGEST = 64
"""Letters that Weights & Biases allows in an id and in a tag."""
_folders: dict[str, str] = {}


def fill_wandb_arguments(
    loggers: Mapping[str, Any], folder: Path, *, name: str, group: str, job_type: str, tags: Sequence[str]
) -> dict[str, str] | None:
    """Fill in, in place, what a config leaves open, and silence Weights & Biases while all of it is written to disk.

    A run keeps id, name and group of its first start, see ``WandbRun``; all that is written is inside its folder.
    Online Weights & Biases prints the address of the run. Its errors are exceptions, and are still raised.
    Name and group are those of a new run. Returns the run's ``id``, ``name`` and ``group``; None without such a logger.
    """
    chosen = [
        spec["init_args"]
        for spec in loggers.values()
        if spec is not None and spec["class_path"].rpartition(".")[2] == WandbLogger.__name__
    ]
    if not chosen:
        return None
    safe = re.sub(r"[^\w.-]", "_", name)[: LONGEST - 9]
    identity = identity_of(folder, {"id": f"{safe}-{secrets.token_hex(4)}", "name": name, "group": group})
    others = {"save_dir": str(folder), "job_type": job_type, "tags": [tag[:LONGEST] for tag in tags], "resume": "allow"}
    for arguments in chosen:
        for key, value in {**identity, **others}.items():
            if arguments.get(key) in (None, ".") and VARIABLES.get(key, "") not in os.environ:
                arguments[key] = value
        identity["id"] = arguments.get("version") or arguments.get("id") or os.environ[VARIABLES["id"]]
    if all(arguments["offline"] for arguments in chosen):
        os.environ.setdefault("WANDB_SILENT", "true")
    for variable, inside in (("WANDB_DATA_DIR", "wandb"), ("WANDB_CACHE_DIR", "wandb/cache")):
        if os.environ.get(variable) in (None, _folders.get(variable)):  # media and tables not at home, unless asked for
            os.environ[variable] = _folders[variable] = str((folder / inside).absolute())
    return identity


def drop_anonymous(loggers: Iterable[Logger]) -> None:
    """Keep Lightning from passing ``anonymous``, of which wandb warns, where a logger's run has not begun."""
    for logger in loggers:
        if isinstance(logger, WandbLogger) and logger._wandb_init.get("anonymous") is None:
            logger._wandb_init.pop("anonymous", None)


def finish_wandb(code: int) -> None:
    """End the run of Weights & Biases, if one has begun, with an exit code; after a signal it counts as preempted."""
    wandb = sys.modules.get("wandb")
    if wandb is None or wandb.run is None:
        return
    if code > 128 and code != INTERRUPTED:
        wandb.run.mark_preempting()
    wandb.finish(exit_code=code)
