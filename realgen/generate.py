"""Draws images of prompts: ``python -m realgen.generate "a cat on a sofa"``."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_type_hints

from realgen import __version__
from realgen.cli import ConfigError
from realgen.cli.arguments import asks_for_help, pairs, usable_device
from realgen.cli.error_frame import run_command
from realgen.masking import recorded

if TYPE_CHECKING:
    from realgen.cli.config_reader import ConfigReader
    from realgen.cli.tree import Node
    from realgen.generation import ImageGenerator

DEFAULT_POLICY = "configs/policies/sd3_nano.yaml"
USAGE = f"""python -m realgen.generate PROMPT [PROMPT ...] [--key value ...]

Draws images of prompts; with a rewriter each prompt as it is and rewritten, from the same noise, side by side.
First commands to try:
  python -m realgen.generate "a cat on a sofa"
  python -m realgen.generate "a cat on a sofa" --rewriter configs/policies/llm_nano.yaml

  --prompts FILE         more prompts, one per line
  --n 4                  images of each prompt, from the seeds S, S + 1, ...
  --seed S               0 by default; the same seed draws the same images
  --output DIR           where they go (runs/generated); what is there already is not drawn again, and images of
                         other settings, another seed among them, are refused
  --policy PART          what draws ({DEFAULT_POLICY})
  --policy.KEY VALUE     change a setting of it, such as --policy.eval_num_steps 8
  --lora DIR             adapters that a run exported (its folder lora), with their own rank, alpha and layers
  --rewriter PART        a language model that rewrites each prompt once, such as configs/policies/llm_nano.yaml
  --rewriter.KEY VALUE   change a setting of it, such as --rewriter.eval_temperature 0
  --rewriter_lora DIR    adapters for the rewriter
  --batch_size 8         images at a time; changes rounding alone
  --device auto          auto is a GPU if there is one
  --policy.help CLASS    the settings of one class, such as realgen.policies.DiffusionPolicy
"""
LORA = {"lora": "policy", "rewriter_lora": "rewriter"}
"""Options that load adapters, and for which part."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, 1 after an error, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or {"-h", "--help"} & set(arguments):
        (sys.stdout if arguments else sys.stderr).write(f"usage: {USAGE}")
        return 0 if arguments else 1

    def command() -> int:
        prompts, options = split_prompts(arguments)
        # Imported here, so that the lines above do not wait for torch.
        from realgen.generation import generate

        try:
            generate(*open_generator(options, prompts))
        except KeyboardInterrupt:
            sys.stderr.write("interrupted; the same command goes on\n")
            raise
        return 0

    return run_command(command, doing="loading models")


def split_prompts(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell prompts from options with their values; after ``--`` all are prompts."""
    prompts: list[str] = []
    options: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        if argument == "--":
            prompts += arguments
        elif argument.startswith("-"):
            options += [argument, *([] if "=" in argument else [next(arguments, "--")])]
        else:
            prompts.append(argument)
    return prompts, options


def open_generator(options: Sequence[str], given: Sequence[str]) -> tuple[ImageGenerator, list[str]]:
    """Check options and prompts, and load what draws; return it and the prompts, each once. Nothing is written."""
    from realgen.benchmark.inputs.drawing import adapter_digests
    from realgen.generation import ImageGenerator, Request, read_prompts
    from realgen.policies import JointPolicy, PromptPolicy, RewrittenPolicy

    reader = config_reader()
    config = read_config(reader, options)
    made = reader.make(config)
    request = Request(**{field.name: made[field.name] for field in dataclasses.fields(Request)})
    if isinstance(made.policy, PromptPolicy | RewrittenPolicy | JointPolicy):
        kind = type(made.policy).__name__
        raise ConfigError(
            f"policy: expected one that draws, got {kind}, which rewrites. Give a language model as --rewriter."
        )
    texts = read_prompts(given, request.prompts)
    device = usable_device(request.device)
    made.policy.load()
    if made.rewriter is not None:
        made.rewriter.load()
    parts = [part for part in (made.policy, made.rewriter) if part is not None]
    settings = {
        "software": f"realgen {__version__}",
        "device": device.type,
        "first_seed": request.seed,
        "policy": config["policy"],
        "rewriter": config["rewriter"],
        "adapters": adapter_digests([config["policy"], config["rewriter"]]),
    }
    for part in parts:
        part.to(device)
    return ImageGenerator(request, made.policy, made.rewriter, recorded(settings)), texts


def config_reader() -> ConfigReader:
    """Return the reader of this command's options."""
    from realgen.cli.config_reader import ConfigReader
    from realgen.generation import Request
    from realgen.policies import Policy, PromptPolicy

    hints = get_type_hints(Request)
    arguments = {
        "policy": (Policy, None, "What draws."),
        "rewriter": (PromptPolicy | None, None, "Rewrites each prompt."),
        **{field.name: (hints[field.name], field.default, "") for field in dataclasses.fields(Request)},
    }
    return ConfigReader(arguments, USAGE, owner="generate")


def read_config(reader: ConfigReader, options: Sequence[str]) -> dict[str, Any]:
    """Read the options, without prompts, into a complete config of plain values."""
    from realgen.cli.components import assign

    def add_adapters(tree: Node) -> Node:
        for option, part in LORA.items():
            if (directory := tree.child(option)) is not None and directory.value is not None:
                tree = assign(tree, f"{part}.lora", _lora(str(directory.value), option), reader.root)
        if (rewriter := tree.child("rewriter")) is not None and rewriter.is_mapping:
            # The policy draws; with an image policy in the rewriter, it would be in memory twice.
            tree = assign(tree, "rewriter.image_policy", "null", reader.root)
        return tree

    default: list[str] = []
    if not asks_for_help(options):
        keys = [key for key, _ in pairs(options)]
        _check_keys(keys)
        default = [] if "policy" in keys else [f"--policy={DEFAULT_POLICY}"]
    return reader.read([*default, *options], change=add_adapters)


def _check_keys(keys: Sequence[str]) -> None:
    """Refuse options that would do nothing."""
    for option, part in LORA.items():
        also = [key for key in keys if re.match(rf"{part}\.(init_args\.)?lora\b", key)]
        if option in keys and also:
            raise ConfigError(f"{also[0]}: --{option} brings rank, alpha and layers of its own; leave one of them out.")
    if "rewriter" not in keys and any(key.startswith("rewriter") for key in keys):
        raise ConfigError("rewriter: missing. Give one: --rewriter configs/policies/llm_nano.yaml")
    drawn = next((key for key in keys if re.match(r"rewriter\.(init_args\.)?image_policy\b", key)), None)
    if drawn is not None:
        raise ConfigError(f"{drawn}: the rewriter draws nothing here; --policy does.")
    if "config" in keys:
        raise ConfigError("config: recipes are for realgen.fit; here --policy and --rewriter take parts.")


def _lora(directory: str, option: str) -> str:
    """Return the setting that loads adapters with the rank, alpha and layers that they were trained with."""
    from realgen.policies.trained_adapters import find_adapters

    try:
        adapters = find_adapters(directory)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from error
    named = {"rank": adapters.rank, "alpha": adapters.alpha, "targets": adapters.targets}
    return json.dumps({**named, "pretrained": directory})


if __name__ == "__main__":
    sys.exit(main())
