"""Lists the weights that a recipe needs, and the commands for the missing: ``python -m realgen.weights CONFIG``."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from realgen.cli.arguments import check_files, fix_arguments
from realgen.cli.error_frame import run_command

_EPILOG = """\
first commands to try:
  python -m realgen.weights configs/diffusion_flux.yaml
  python -m realgen.weights configs/diffusion.yaml --model.policy=configs/policies/sd35_medium.yaml

Nothing is fetched. Of the hub's files, those in this machine's cache count as there. Returns 1 if some are missing.
"""
KEYS = ("pretrained", "checkpoint", "head", "model", "probe", "processor")
"""Arguments of parts that name weights; a ``backbone`` that is a name is one of timm's."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 if all weights are there, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m realgen.weights",
        usage="python -m realgen.weights CONFIG [--key=value ...]",
        description="List the weights that a recipe needs: which are there, which are missing, and how to fetch those.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a recipe")
    options, rest = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    return run_command(partial(_list, options.config, rest), doing="listing weights")


def _list(file: Path, rest: Sequence[str]) -> int:
    argv = [f"--config={file}", *fix_arguments(rest)]
    check_files(argv)
    # Imported here, so that --help and a misspelt file do not wait for torch.
    from lightning.pytorch import LightningDataModule

    from realgen.benchmark.realbench_config import realbench_arguments
    from realgen.cli.config_reader import ConfigReader
    from realgen.cli.realgen_cli import ParsedConfig
    from realgen.cli.tree import read_file
    from realgen.hub_files import found_at, how_to_fetch
    from realgen.modules.base import TrainableModule

    if read_file(file).child("model") is None:
        config = ConfigReader(realbench_arguments(), "python -m realgen.realbench --config FILE").read(argv)
    else:
        config = ParsedConfig(TrainableModule, LightningDataModule, argv=argv).config.as_dict()
    missing = 0
    for source, where in needed_weights(config).items():
        place = found_at(source)
        if place is None:
            missing += 1
            print(f"missing  {source}  ({', '.join(where)})")
            print(f"        {how_to_fetch(source) or ' from where its config says, or its publisher'}")
        else:
            size = sum(each.stat().st_size for each in place.rglob("*") if each.is_file()) if place.is_dir() else 0
            print(f"there    {source}  {(size or place.stat().st_size) / 1e6:,.2f} MB  ({', '.join(where)})")
    return 1 if missing else 0


def needed_weights(config: Any, key: str = "") -> dict[str, list[str]]:
    """Return what the parts of a config read as weights, adapters to start from too, and the keys that name it."""
    found: dict[str, list[str]] = {}
    served = isinstance(config, dict) and str(config.get("class_path")).endswith("OpenAIJudge")  # not here
    for name, child in config.items() if isinstance(config, dict) and not served else ():
        here = key if name == "init_args" else f"{key}.{name}".removeprefix(".")
        if name == "backbone" and isinstance(child, str) and not config.get("pretrained"):
            inside = {f"timm/{child}": [here]}
        else:
            inside = {child: [here]} if name in KEYS and isinstance(child, str) else needed_weights(child, here)
        for source, keys in inside.items():
            found.setdefault(source, []).extend(keys)
    return found


if __name__ == "__main__":
    sys.exit(main())
