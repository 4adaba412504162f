"""Print what a recipe costs: ``python -m realgen.plan --config configs/diffusion_flux.yaml --gpu h200``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realgen.checks import nearest, nearest_name
from realgen.cli.arguments import check_files, fix_arguments, pairs
from realgen.cli.error_frame import run_command
from realgen.options import OptionParser

if TYPE_CHECKING:
    from realgen.planning import GPU, Recipe

UTILIZATION = 0.4
"""Share of a GPU's peak that is reached, where nothing else is given."""
_EXAMPLE = """\
first commands to try:
  python -m realgen.plan --config configs/diffusion_flux.yaml --gpu h200
  python -m realgen.plan --config configs/diffusion_flux.yaml --gpu h200 --model.microbatch_size=2 --trainer.devices=16
  python -m realgen.plan --measured runs/diffusion_flux/20260101-120000 --gpu h200

Any dotted key of the config may follow, as with realgen.fit. No weights are needed, and nothing is downloaded: models
are built on PyTorch's meta device, from config.json where the model's folder or the hub's cache has it, else from the
published numbers in realgen/planning/architectures.
GPUs: a100-40, a100-80, h100, h200, b200, l40s, rtx4090, a6000.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, or 1 after an error."""
    return run_command(partial(_plan, sys.argv[1:] if argv is None else argv), doing="planning")


def _plan(argv: Sequence[str]) -> int:
    options, rest = parse_arguments(argv)
    config = fix_arguments(rest)
    check_files(config)
    # Imported here, so that --help and a misspelt file do not wait for torch.
    from rich.console import Console

    from realgen.planning import make_plan
    from realgen.planning.forecast import forecast, read_measured
    from realgen.planning.plan_warnings import find_warnings
    from realgen.planning.table import as_json, show

    gpu = find_gpu(options)
    if options.json is not None and not options.json.parent.is_dir():
        raise ValueError(f"json: there is no folder {options.json.parent} to write {options.json.name} into.")
    measured = None if options.measured is None else read_measured(options.measured)
    if options.measured is not None and not any(key == "config" for key, _ in pairs(config)):
        config = [f"--config={options.measured / 'config.yaml'}", *config]
    recipe = read_recipe(config)
    plan = make_plan(recipe, prompt_tokens=options.prompt_tokens)
    rated = None if gpu is None else gpu.at_precision(recipe.float32_matmul_precision)
    utilization = UTILIZATION if options.utilization is None else options.utilization
    expected = None if rated is None else forecast(plan, rated, utilization)
    warnings = list(find_warnings(recipe, plan, expected))
    if options.json is not None:
        text = json.dumps(as_json(plan, expected, measured, warnings), indent=2) + "\n"
        options.json.write_text(text, encoding="utf-8")
    # As wide as the table needs: where the output is no terminal it would be 80 columns, with numbers cut in two.
    show(plan, expected, measured, warnings, Console(soft_wrap=True, width=1000))
    return 0


def parse_arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Split the plan's own options from the dotted keys of the config."""
    parser = OptionParser(
        prog="python -m realgen.plan",
        usage="python -m realgen.plan --config RECIPE.yaml [--config OVERLAY.yaml ...] [--gpu NAME] [--key=value ...]",
        description="What an iteration of a recipe costs: transformer evaluations, FLOPs, memory, seconds.",
        epilog=_EXAMPLE,
    )
    add = parser.add_argument
    add("--gpu", metavar="NAME", help="GPU to plan for; without it there are no seconds")
    add("--tflops", type=float, metavar="X", help="peak in TFLOP/s of all types, in place of that of a named GPU")
    add("--utilization", type=float, metavar="X", help=f"share of the peak reached (default: {UTILIZATION})")
    add("--prompt_tokens", type=int, default=64, metavar="N", help="of a usual prompt (default: %(default)s)")
    add("--measured", type=Path, metavar="RUN", help="folder of a run to compare with; its config by default")
    add("--json", type=Path, metavar="FILE", help="also write everything to this file")
    parser.check_names(argv, only_near=True)
    return parser.parse_known_args(argv)


def find_gpu(options: argparse.Namespace) -> GPU | None:
    """Return the requested GPU, with the rates of ``--tflops``, or None; ValueError for a wrong option."""
    from dataclasses import replace

    from realgen.planning.forecast import GPU, GPUS

    if options.utilization is not None and options.gpu is None and options.tflops is None:
        raise ValueError("utilization is a share of a GPU's peak: give --gpu, or --tflops, too.")
    if options.gpu is not None and options.gpu not in GPUS:
        near = f" {nearest(options.gpu, GPUS)}" if nearest_name(options.gpu, GPUS) else ""
        raise ValueError(f"gpu must be one of {', '.join(GPUS)}, or left out for --tflops, got {options.gpu!r}.{near}")
    named = None if options.gpu is None else GPUS[options.gpu]
    if options.tflops is None:
        return named
    if not options.tflops > 0:
        raise ValueError(f"tflops must be above 0, got {options.tflops}.")
    rates = dict.fromkeys(("bf16", "tf32", "fp32"), options.tflops)
    own = GPU("your own", **rates, memory=0.0, source="--tflops")
    return own if named is None else replace(named, **rates, source="--tflops")


def read_recipe(argv: Sequence[str]) -> Recipe:
    """Parse a config as ``realgen.fit`` does, and make only what a plan needs; ValueError if it cannot be planned."""
    from jsonargparse import ArgumentParser
    from lightning.pytorch import LightningDataModule

    from realgen.cli.component_keys import instantiate
    from realgen.cli.realgen_cli import ParsedConfig
    from realgen.modules import GRPOModule
    from realgen.planning import Recipe, sharding_of
    from realgen.planning.recipe import Unbuilt

    config = ParsedConfig(GRPOModule, LightningDataModule, argv=argv).config.as_dict()
    trainer, data = config["trainer"], config["data"].get("init_args") or {}
    settings = dict(config["model"]["init_args"])
    reward = settings["reward"]
    settings |= {"reward": {"class_path": f"{Unbuilt.__module__}.{Unbuilt.__name__}"}, "metrics": None}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--model", type=GRPOModule)
    model = {"class_path": config["model"]["class_path"], "init_args": settings}
    made = instantiate(parser, parser.parse_object({"model": model}))
    if "prompts_per_iteration" not in data:
        raise ValueError("data: a plan needs prompts_per_iteration, which realgen.data.PromptShards has.")
    callbacks = [(spec["class_path"].rpartition(".")[2], spec) for spec in config["callbacks"].values() if spec]
    epochs, batches = trainer["max_epochs"], trainer["limit_train_batches"]
    ends = isinstance(epochs, int) and epochs > 0 and isinstance(batches, int)
    return Recipe(
        module=made.model,
        prompts=data["prompts_per_iteration"],
        sharding=sharding_of(trainer["strategy"], _devices(trainer) * trainer["num_nodes"]),
        precision=str(trainer["precision"] or "32-true"),
        reward=reward,
        metrics=config["model"]["init_args"].get("metrics") or {},
        iterations=epochs * batches if ends else None,
        averages=sum(name == "EMA" for name, _ in callbacks),
        learning=tuple(spec["init_args"] for name, spec in callbacks if name == "DetectorLearning"),
        float32_matmul_precision=config["float32_matmul_precision"],
    )


def _devices(trainer: Mapping[str, Any]) -> int:
    devices = trainer["devices"]
    if isinstance(devices, list):
        return len(devices)
    if str(devices).isdigit() and int(devices) > 0:
        return int(devices)
    if trainer["accelerator"] == "cpu":
        return 1
    raise ValueError(f"trainer.devices must be a number: a plan does not look at this machine; got {devices!r}.")


if __name__ == "__main__":
    sys.exit(main())
