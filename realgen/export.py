"""Writes the trained weights of a run or a checkpoint: ``python -m realgen.export runs/diffusion/20260101-120000``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from realgen.cli import ConfigError
from realgen.cli.arguments import fix_arguments
from realgen.cli.error_frame import run_command
from realgen.options import OptionParser

USAGE = (
    "python -m realgen.export RUN_OR_CHECKPOINT [--weights ema|live] [--formats A,B] [--output FOLDER] [--key=value]"
)
FORMATS = ("peft", "comfyui", "merged")
"""Those of ``realgen.policies.adapter_formats``, which imports torch."""
_EPILOG = """\
first commands to try:
  python -m realgen.export runs/diffusion/20260101-120000
  python -m realgen.export runs/diffusion/20260101-120000 --formats comfyui,peft
  python -m realgen.export runs/diffusion/20260101-120000/checkpoints/best.ckpt --weights live --output mine

Works from the checkpoint of every recipe and strategy, in one process without a GPU. A dotted key changes the run's
config, such as --model.policy.backbone.pretrained=FOLDER where the base model has moved. A folder is replaced when the
new one is whole.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, 1 after an error, 130 after Ctrl-C."""
    return run_command(partial(_export, sys.argv[1:] if argv is None else argv), doing="exporting")


def parse_arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Split the command's own options from the dotted keys of the config."""
    parser = OptionParser(
        prog="python -m realgen.export",
        usage=USAGE,
        description="Write the trained weights of a run or of a checkpoint for the library that reads them.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("source", type=Path, metavar="RUN_OR_CHECKPOINT", help="folder of a run (its last checkpoint), or a checkpoint")
    add("--weights", choices=("ema", "live"), help="moving averages or live weights (default: as the run exports)")
    add("--output", type=Path, metavar="FOLDER", help="(default: where the run exports, with the checkpoint's name)")
    add("--formats", type=_formats, metavar="A,B", help=f"also {', '.join(FORMATS)} (default: as the run exports)")
    add("--config", type=Path, metavar="FILE", help="the run's config (default: config.yaml of the run)")
    parser.check_names(argv, only_near=True)
    return parser.parse_known_args(argv)


def _formats(text: str) -> list[str]:
    if odd := [word for word in text.split(",") if word not in FORMATS]:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(FORMATS)}, got {odd[0]!r}")
    return text.split(",")


def _export(argv: Sequence[str]) -> int:
    options, rest = parse_arguments(argv)
    if not options.source.exists():
        raise ConfigError(f"there is no {options.source}. Expected the folder of a run, or a checkpoint.")
    # Imported here, so that --help and a misspelt folder do not wait for torch.
    from lightning.pytorch import LightningDataModule

    from realgen.callbacks.model_card import write_card
    from realgen.checkpoint_files import FOLDER, LAST, META, check_checkpoint, newest_checkpoint
    from realgen.cli.config_reader import ConfigReader
    from realgen.cli.finishing import export_checkpoint
    from realgen.cli.realgen_cli import ParsedConfig, callback_argument
    from realgen.cli.run_dir import Run
    from realgen.modules.base import TrainableModule
    from realgen.policies import Policy

    source: Path = options.source
    is_run = source.is_dir() and not (source / META).exists()
    run = source if is_run else source.absolute().parent.parent  # of a checkpoint that lies in one
    file = options.config or run / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"config: there is no {file}. Give the run's config: --config=FILE")
    given = [f"--config={file}", *fix_arguments(rest)]
    config = ParsedConfig(TrainableModule, LightningDataModule, argv=given).config.as_dict()
    kept = Path(callback_argument(config["callbacks"], "dirpath") or run / FOLDER)
    checkpoint = newest_checkpoint(kept) if is_run else source
    if checkpoint is None:
        raise ConfigError(f"{run} holds no checkpoint.")
    check_checkpoint(checkpoint)
    in_run = (run / "config.yaml").is_file()
    folder = run if in_run else source.parent
    # The run's own name for its last checkpoint, lora_best for best.ckpt.
    words = (checkpoint.name.replace(LAST, "").removesuffix(".ckpt"), options.weights)
    name = "_".join([callback_argument(config["callbacks"], "directory") or "lora", *filter(None, words)])
    place = options.output or folder / name
    formats = options.formats or callback_argument(config["callbacks"], "formats") or []
    # What a config trains, its frozen weights read: a policy, without its rewards, or a detector's module.
    hints = {"policy": (Policy | None, None, ""), "model": (TrainableModule | None, None, "")}
    policy = (config["model"].get("init_args") or {}).get("policy")
    made = ConfigReader(hints, USAGE).make({"model": config["model"]} if policy is None else {"policy": policy})
    (made.model.configure_model if policy is None else made.policy.load)()
    trained = made.model if policy is None else made.policy
    with ExitStack() as held:
        if in_run and place.resolve().is_relative_to(run.resolve()):
            held.callback(Run(run, "export").reserve(option="output").release)
        path = export_checkpoint(trained, checkpoint, place, options.weights, formats)
        write_card(place, file)
    print(f"exported {checkpoint} to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
