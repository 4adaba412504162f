"""Export of the trained weights, in the format of diffusers, peft or transformers, or of the detector."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn

from realgen.callbacks.ema import EMA, averaged_weights
from realgen.callbacks.model_card import write_card
from realgen.callbacks.run_context import (
    Exporter,
    callbacks_of,
    fits,
    is_last_epoch,
    iteration_of,
    run_folder,
    trained_of,
)
from realgen.checkpoint_files import exported_iteration, write_record
from realgen.policies import DiffusionPolicy
from realgen.policies.adapter_formats import Format, original_layers, write_formats
from realgen.policies.trained_adapters import DIFFUSERS_FILE
from realgen.policies.weight_copy import trained_weights
from realgen.whole_files import written_whole


class Export(Callback):
    """Write the weights (those of ``EMA`` if there is one): before the last validation, which may fail, or at the end.

    When a run is preempted, too. The folder is written beside the old one and takes its place when it is whole.

    Args:
        directory: Name of the folder inside the run's folder.
        formats: Beside the LoRA of an image policy for diffusers, the same in folders inside: ``peft`` for
            ``PeftModel.from_pretrained`` of the transformer, ``comfyui`` for ComfyUI and kohya's tools, ``merged`` the
            whole transformer with the LoRA added, in its ``dtype``, for ``from_pretrained``.
    """

    def __init__(self, directory: str = "lora", formats: list[Format] | None = None) -> None:
        self.directory = directory
        self.formats = formats or []
        self.path: Path | None = None
        """Path to load, after the export."""
        self._iteration: int | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise ValueError for a format that the trained weights cannot have; not only after hours."""
        _check(trained_of(pl_module), self.formats)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export before the last validation; behind ``on_validation_start``, where the checkpoint is written."""
        if fits(trainer) and is_last_epoch(trainer):
            self._export(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export at the end of the fit, unless these weights are there already."""
        if self._iteration != iteration_of(pl_module):
            self._export(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the model cards again, with what the run measured at its end."""
        if trainer.is_global_zero and self.path is not None:
            write_cards(run_folder(trainer), self.directory)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Export if the run is preempted; after any other error the weights may be inconsistent."""
        if isinstance(exception, SIGTERMException):
            self._export(trainer, pl_module)
            rank_zero_info(f"Exported the weights so far to {self.path}.")

    def export_best(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export the present weights as the best ones, into a folder of their own; every rank must call it."""
        self._write(trainer, pl_module, run_folder(trainer) / f"{self.directory}_best")

    def export_again(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export once more if this iteration was exported and has other weights since; every rank must call it."""
        if self._iteration == iteration_of(pl_module):
            self._export(trainer, pl_module)

    def _export(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.path = self._write(trainer, pl_module, run_folder(trainer) / self.directory)
        self._iteration = iteration_of(pl_module)

    def _write(self, trainer: Trainer, pl_module: LightningModule, place: Path) -> Path:
        trained = trained_of(pl_module)
        if not isinstance(trained, Exporter):
            raise TypeError(f"{type(trained).__name__} cannot export its weights; it has no method export.")
        with averaged_weights(trainer, trained):
            path = write_export(
                trained,
                place,
                iteration=iteration_of(pl_module),
                averaged=bool(callbacks_of(trainer, EMA)),
                formats=self.formats,
                first=trainer.is_global_zero,
                shared=trainer.strategy.broadcast,
            )
        if trainer.is_global_zero:
            write_card(place, run_folder(trainer) / "config.yaml")
        trainer.strategy.barrier()
        return path


def write_export(
    trained: Exporter,
    place: Path,
    *,
    iteration: int,
    averaged: bool,
    formats: Iterable[Format] = (),
    first: bool = True,
    shared: Callable[[str], str] = str,
) -> Path:
    """Let a policy or detector write its weights, whole or not at all, on every rank; return the path to load.

    The first rank puts the folder in its place; ``shared`` returns that rank's text on every rank. ValueError if the
    weights cannot be written in one of ``formats``, see ``Export``.
    """
    _check(trained, formats)
    with ExitStack() as stack:
        unfinished = Path(shared(str(stack.enter_context(written_whole(place)) if first else "")))
        path = trained.export(unfinished)
        if first:
            for policy in _adapted(trained) if formats else ():
                (adapters,) = unfinished.rglob(DIFFUSERS_FILE)
                write_formats(adapters.parent, policy.backbone, formats)
            write_record(unfinished, iteration=iteration, averaged=averaged)
    return place / path.relative_to(unfinished)


def write_cards(run: Path, directory: str) -> None:
    """Write the model cards of a run's exports; see ``write_card``."""
    for place in (run / directory, run / f"{directory}_best"):
        if exported_iteration(place) is not None:
            write_card(place, run / "config.yaml")


def _adapted(trained: object) -> list[DiffusionPolicy]:
    modules = trained.modules() if isinstance(trained, nn.Module) else ()
    return [policy for policy in modules if isinstance(policy, DiffusionPolicy) and policy.lora is not None]


def _check(trained: object, formats: Iterable[Format]) -> None:
    policies = _adapted(trained)
    if formats and not policies:
        raise ValueError(f"formats must be [] where no image policy trains a LoRA, got {list(formats)}.")
    for policy in policies if "comfyui" in formats else ():
        names = [name.partition(".lora_")[0] for name in trained_weights(policy.transformer)]
        backbone: Any = policy.backbone
        original_layers(backbone.pipeline_class, names)
