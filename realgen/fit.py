"""Trains a policy or a detector: ``python -m realgen.fit --config configs/diffusion.yaml``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from realgen.cli.arguments import check_files, print_usage, take_arguments
from realgen.cli.error_frame import run_command

if TYPE_CHECKING:
    from realgen.cli.realgen_cli import RealGenCLI

USAGE = """python -m realgen.fit --config RECIPE.yaml [--config OVERLAY.yaml ...] [--key=value ...]

Trains a policy against frozen detectors with GRPO. First command to try:
  python -m realgen.fit --config configs/diffusion.yaml
Trains a detector on folders of real and generated images:
  python -m realgen.fit --config configs/detector.yaml

Common overrides (a dotted key of the config; init_args may be left out; later wins):
  --trainer.max_epochs=50                              how long
  --trainer.devices=8 --trainer.accelerator=gpu        on what
  --seed_everything=1                                  another seed
  --model.objective=configs/objectives/grpo_guard.yaml swap a part: a file, or a class
  --model.reward=configs/rewards/omniaid_only.yaml     the same for the reward
  --model.optimizer.lr=1e-4                            change one number
  --model.metrics.kid=null                             drop one of several
  --loggers.wandb.offline=false                        log to Weights & Biases online
  --ckpt_path=last                                     go on with the newest run of this recipe
  --run_dir=FOLDER, --output_dir=FOLDER                where the run is written
  --baseline=false                                     do not validate before the first iteration
  --print_config                                       show the whole config and stop
  --model.help=CLASS, --data.help=CLASS                the arguments of one class
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, 1 after an error, 130 after Ctrl-C, 143 after SIGTERM."""
    arguments = take_arguments(argv)
    if (code := print_usage(arguments, USAGE)) is not None:
        return code
    return run_command(partial(_fit, arguments), doing="loading models and data")


def _fit(arguments: Sequence[str]) -> int:
    check_files(arguments)
    # Imported here, so that usage and a misspelt file do not wait for torch.
    from lightning.pytorch import LightningDataModule

    from realgen.cli.finishing import finish, is_finished
    from realgen.cli.realgen_cli import RealGenCLI
    from realgen.cli.training import first_lines, train
    from realgen.modules.base import TrainableModule

    cli = RealGenCLI(TrainableModule, LightningDataModule, usage=USAGE, argv=arguments)
    try:
        if cli.run.ckpt_path is not None and is_finished(cli.checkpoint, cli.trainer):
            return finish(cli.trainer, cli.model, cli.run.ckpt_path)
        with cli.run.cleanup_on_error():
            check(cli)
            if cli.trainer.is_global_zero:
                sys.stdout.write(first_lines(cli))
                sys.stdout.flush()
        return train(cli)
    finally:
        cli.run.release()


def check(cli: RealGenCLI) -> None:
    """Raise ValueError for mistakes that show only when parts are put together, before a run's folder is made."""
    from lightning.pytorch import Callback

    from realgen.callbacks.run_context import callbacks_of
    from realgen.data import ImageFolders, PromptShards
    from realgen.detectors.base import FrozenNetwork
    from realgen.modules import GRPOModule
    from realgen.modules.detector_learning import DetectorLearning

    model: Any = cli.model
    if isinstance(model, GRPOModule):
        model.check(cli.datamodule)
        owners = (*model.metrics.values(), *callbacks_of(cli.trainer, Callback))  # such as the detectors of a benchmark
        held = [part for owner in owners for part in vars(owner).values()]
        inside = [part for parts in held if isinstance(parts, dict) for part in parts.values()]
        for part in (*model.reward.networks, *held, *inside):
            if isinstance(part, FrozenNetwork):
                part.network.eval()  # read here, and not at its first use in the run
    if isinstance(cli.datamodule, PromptShards):
        cli.datamodule.read(num_ranks=cli.trainer.num_devices * cli.trainer.num_nodes)
        for learner in callbacks_of(cli.trainer, DetectorLearning):
            learner.check_photographs(cli.datamodule.train_table)
        shape = getattr(cli.datamodule.train_table, "image_shape", None)
        if getattr(model, "data_anchor", None) is not None and shape is None:
            raise ValueError("data_anchor needs the prompts' photographs: set data.train_images=true, of such shards.")
        table = cli.datamodule.validation_table
        without = isinstance(model, GRPOModule) and table is not None and table.image_shape is None
        names = model.without_real_images() if without else []
        if names and cli.trainer.is_global_zero:
            flags = " ".join(f"--model.metrics.{name}=null" for name in names)
            sys.stderr.write(f"data.validation has no real images to compare with; left out, as by {flags}\n")
    elif isinstance(cli.datamodule, ImageFolders):
        cli.datamodule.read()
    model.configure_model()
    model.configure_optimizers()  # thrown away; only to see whether the optimizer takes its arguments


if __name__ == "__main__":
    sys.exit(main())
