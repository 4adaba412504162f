"""The weights of a checkpoint without a trainer, and the end of a run that has done all its iterations."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from realgen.benchmark.report.page import REPORT_FILE
from realgen.callbacks import EMA, BestCheckpoint, Export, Report
from realgen.callbacks.closing_screen import ClosingScreen, doubled_limits
from realgen.callbacks.due_validation import limits_of
from realgen.callbacks.export import write_cards, write_export
from realgen.callbacks.run_context import Exporter, callbacks_of, run_folder, trained_of
from realgen.checkpoint_files import BEST, check_checkpoint, exported_iteration, finished_iterations, keep_copy
from realgen.modules.detector_learning import DetectorLearning
from realgen.policies.adapter_formats import Format
from realgen.policies.base import Policy
from realgen.policies.weight_copy import trained_weights
from realgen.strategies.checkpoint import read_folder

Weights = Literal["ema", "live"]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return a verified checkpoint, a file or the folder of any number of ranks, with whole tensors on the CPU."""
    if path.is_dir():
        return read_folder(path, lambda _, size, dtype: torch.empty(size, dtype=dtype))
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def put_weights(trained: nn.Module, checkpoint: Mapping[str, Any], weights: Weights | None = None) -> Weights:
    """Load a checkpoint's trained weights, by default any of ``EMA``; return which. ValueError if they do not fit."""
    averages = checkpoint.get("callbacks", {}).get(EMA.__name__, {}).get("weights", {})
    if weights == "ema" and not averages:
        raise ValueError("weights: the checkpoint has no averages (callback EMA). Take live.")
    if averages and weights != "live":
        found = dict(averages)
    else:
        prefix = "policy." if isinstance(trained, Policy) else ""
        found = {name.removeprefix(prefix): each for name, each in checkpoint["state_dict"].items()}
    parameters = trained_weights(trained)
    if odd := sorted(found.keys() ^ parameters.keys()):
        raise ValueError(
            f"the checkpoint and the config differ in {len(odd)} trained weights, such as {odd[0]}; take the config of "
            "the run that wrote it."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(found[name])
    return "ema" if averages and weights != "live" else "live"


def export_checkpoint(
    trained: nn.Module, path: Path, place: Path, weights: Weights | None = None, formats: Iterable[Format] = ()
) -> Path:
    """Export a verified checkpoint's weights, see ``put_weights`` and ``Export``, into a folder; return its path."""
    checkpoint = load_checkpoint(path)
    taken = put_weights(trained, checkpoint, weights)
    assert isinstance(trained, Exporter)
    iteration = finished_iterations(checkpoint)
    return write_export(trained, place, iteration=iteration, averaged=taken == "ema", formats=formats)


def is_finished(checkpoint: Mapping[str, Any], trainer: Trainer) -> bool:
    """Return whether a run has no iteration or validation left; one that a callback ended goes on with other limits."""
    if not checkpoint or checkpoint.get("validation_due", False):
        return False
    if checkpoint.get("stopped") is not None and checkpoint["stopped"] == limits_of(trainer):
        return True
    limits = ((_finished_epochs(checkpoint), trainer.max_epochs), (checkpoint["global_step"], trainer.max_steps))
    return any(limit is not None and 0 <= limit <= done for done, limit in limits)


def _finished_epochs(checkpoint: Mapping[str, Any]) -> int:
    return int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])


def finish(trainer: Trainer, module: LightningModule, path: Path) -> int:
    """Make what the end of a finished run lacks (exports, table, images, summary, report), and say how to go on.

    The trainer has the run's callbacks, and is not started; the weights are read only if they are to be exported.
    Returns the exit code, 0.
    """
    if trainer.is_global_zero:
        trainer.loggers = []  # they would begin a run
        checkpoint = load_checkpoint(path)
        loop = trainer.fit_loop  # where its limits are below what was done, to go on is more than that
        if loop.max_epochs is not None and loop.max_epochs > 0:
            loop.max_epochs = max(loop.max_epochs, _finished_epochs(checkpoint))
        if trainer.max_steps > 0:
            loop.epoch_loop.max_steps = max(trainer.max_steps, checkpoint["global_step"])
        iteration, states = finished_iterations(checkpoint), checkpoint.get("callbacks", {})
        screens = callbacks_of(trainer, ClosingScreen)
        for best in callbacks_of(trainer, BestCheckpoint):
            best.setup(trainer, module, "fit")
        for callback in (*callbacks_of(trainer, BestCheckpoint), *screens):
            if callback.state_key in states:
                callback.load_state_dict(states[callback.state_key])
        _export_missing(trainer, module, path, iteration)
        for learner in callbacks_of(trainer, DetectorLearning):
            if learner.state_key in states:
                learner.export_missing(run_folder(trainer), module, states[learner.state_key], iteration)
        for screen in screens:
            if not screen.is_written(run_folder(trainer)):
                screen.on_fit_end(trainer, module)
        for export in callbacks_of(trainer, Export):
            write_cards(run_folder(trainer), export.directory)
        trainer.state.fn = TrainerFn.FITTING  # the report is one of a fit
        for report in callbacks_of(trainer, Report):
            page, summary = (run_folder(trainer) / name for name in (REPORT_FILE, "summary.json"))
            if not page.is_file() or (summary.is_file() and summary.stat().st_mtime_ns > page.stat().st_mtime_ns):
                report.on_fit_end(trainer, module)  # it shows the summary's intervals
        early = " (a callback ended it)" * (checkpoint.get("stopped") is not None)
        print(f"finished at iteration {iteration}{early}; to go on add {' '.join(doubled_limits(trainer))}")
    return 0


def _export_missing(trainer: Trainer, module: LightningModule, path: Path, iteration: int) -> None:
    """Export the last weights, and the best ones, where the run's folder lacks them or has older ones."""
    folder, missing = run_folder(trainer), []
    best = _best_iteration(trainer, path, iteration)
    for export in callbacks_of(trainer, Export):
        export.path = folder / export.directory
        missing.append((path, export.path, iteration, export.formats))
        if best is not None:
            missing.append((path.with_name(BEST), folder / f"{export.directory}_best", best, export.formats))
    missing = [each for each in missing if exported_iteration(each[1]) != each[2] or _lacks(each[1], each[3])]
    if missing:
        module.configure_model()
        for checkpoint, place, _, formats in missing:
            print(f"exported to {export_checkpoint(trained_of(module), checkpoint, place, formats=formats)}")


def _lacks(place: Path, formats: Iterable[Format]) -> bool:
    return any(not any(path.is_dir() for path in place.rglob(name)) for name in formats)


def _best_iteration(trainer: Trainer, path: Path, iteration: int) -> int | None:
    """Return the iteration of ``best.ckpt``, made from the last checkpoint if that is the best; None without one."""
    file, kept = path.with_name(BEST), None
    for best in callbacks_of(trainer, BestCheckpoint):
        if best.value is None:
            continue
        try:
            kept = finished_iterations(check_checkpoint(file))
        except (OSError, ValueError) as error:
            if best.iteration != iteration:
                print(f"not exported: {error}")
        if kept != best.iteration == iteration:
            keep_copy(path, file)
            kept = iteration
    return kept
