"""Measures how real images look: ``python -m realgen.realbench --config configs/realbench.yaml``."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from realgen.cli import ConfigError
from realgen.cli.arguments import check_files, first_config, print_usage, take_arguments, usable_device, without_options
from realgen.cli.error_frame import INTERRUPTED, TERMINATED, run_command
from realgen.masking import masked

if TYPE_CHECKING:
    from realgen.benchmark import Results
    from realgen.benchmark.realbench import RealBench
    from realgen.cli.config_reader import ConfigReader
    from realgen.cli.run_dir import Run

USAGE = """python -m realgen.realbench --config RECIPE.yaml [--config OVERLAY.yaml ...] [--key=value ...]

Measures how real images look, against real images of the same prompts: detectors, rewards, distances.
First command to try; it draws with the embedded policies:
  python -m realgen.realbench --config configs/realbench.yaml
Score images that were made by anything, paired with real images by file name; nothing is drawn:
  python -m realgen.realbench --config configs/realbench_images.yaml \\
    --images images/gpt-image --images images/qwen-image --real photographs --prompts prompts.txt

Common overrides (a dotted key of the config; init_args may be left out; later wins):
  --images DIR                              score DIR and draw nothing; again for further models; NAME=DIR names it
  --prompts FILE_OR_FOLDER --length=long    which prompts; a folder in RealBench's layout has its real images, too
  --policies.mine=configs/policies/sd35_medium.yaml  draw with one policy more
  --policies.mine.lora.pretrained=RUN/lora  what it was trained to
  --detectors.effort=null                   drop one of several
  --matching.size=512 --matching.quality=75 how file formats are made alike; --matching=null leaves them
  --arena=configs/arena/openai.yaml         let a judge compare the images pair by pair, too
  --blind_spots.vae=models/FLUX.1-dev       report what the detectors are blind to, instead
  --dry-run                                 say what would be drawn, scored and asked, and stop
  --num_prompts=100                         only so many prompts, evenly spaced
  --device=cuda                             where it computes
  --run_dir=FOLDER                          go on with a run: images that are there are kept
  --run_dir=FOLDER --part=1/8               draw an eighth, beside seven others; then once without --part
  --print_config                            show the whole config and stop
"""
RECIPE = "configs/realbench.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, 1 after an error, 130 after Ctrl-C, 143 after SIGTERM."""
    arguments = take_arguments(argv)
    if (code := print_usage(arguments, USAGE)) is not None:
        return code
    return run_command(partial(_realbench, arguments), doing="loading models")


def _realbench(arguments: Sequence[str]) -> int:
    reader, config = read_config(arguments)
    from realgen.benchmark.realbench_config import read_split

    if config["blind_spots"] is not None:
        return _find_blind_spots(reader, config, arguments)
    part = read_split({**reader.written, "part": config["part"], "run_dir": config["run_dir"]})
    bench = prepare(reader, config)
    run = find_folder(config, arguments)
    if config["dry_run"]:
        print("\n".join(bench.plan(run.path)))
        return 0
    run = run.reserve(shared=part is not None)  # parts draw beside each other
    try:
        return _run(bench, reader, config, run.path, arguments, part)
    finally:
        run.release()


def _find_blind_spots(reader: ConfigReader, config: Mapping[str, Any], arguments: Sequence[str]) -> int:
    """Report what the detectors, and metrics that are detectors, are blind to; nothing is drawn."""
    from rich.console import Console

    from realgen.benchmark.blind_spots import write_blind_spots
    from realgen.cli.config_reader import to_yaml
    from realgen.metrics import MeanRealism
    from realgen.tables import terminal_table

    made, device = reader.make(config), usable_device(config["device"])
    sights = {name: each.to(device) for name, each in _given(made.detectors).items()}
    sights |= {name: each.describe for name, each in _given(made.metrics).items() if isinstance(each, MeanRealism)}
    if made.real is None or not _given(made.images) or not sights:
        raise ConfigError("blind_spots: give photographs, generated images and detectors: --real=DIR --images DIR")
    if config["dry_run"] or config["part"] is not None:
        raise ConfigError("blind_spots: nothing is drawn, so there is no dry run, and there are no parts.")
    how = {"matching": made.matching, "batch_size": made.scoring.batch_size, "num_workers": made.scoring.num_workers}
    settings = masked({**_provenance(arguments), "config": to_yaml(reader.written)})
    run = find_folder(config, arguments).reserve()  # before hours of work
    with run.cleanup_on_error():
        spots, notes = made.blind_spots.find(sights, made.real, _given(made.images), device, **how)
        table, files = write_blind_spots(spots, run.path, warnings=notes, settings=settings)
    run.release()
    shown = terminal_table(table.headings, table.rows, title=table.caption, text_columns=(0, 1), framed=False)
    Console(soft_wrap=True, width=1000).print(shown, *(f"note: {note}" for note in notes), *map(str, files), sep="\n")
    return 0


def read_config(argv: Sequence[str]) -> tuple[ConfigReader, dict[str, Any]]:
    """Read files and arguments into a complete config; return it behind the reader that made it."""
    given = gather_images(argv)
    check_files(given)
    # Imported here, so that the usage and a misspelt file do not wait for torch.
    from realgen.benchmark.realbench_config import realbench_arguments
    from realgen.cli.config_reader import ConfigReader

    reader = ConfigReader(realbench_arguments(), USAGE)
    return reader, reader.read(given)


def gather_images(argv: Sequence[str]) -> list[str]:
    """Put ``--images DIR --images NAME=DIR ...`` into one ``--images={...}``, and let nothing be drawn beside it.

    ``--dry-run`` becomes ``--dry_run=true``. A value that is a whole mapping already is left alone.

    Raises:
        ConfigError: If two folders have one name, or a value is missing.
    """
    others: list[str] = []
    folders: dict[str, str] = {}
    arguments = iter(argv)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument == "--dry-run":
            argument = "--dry_run=true"
        if key != "--images" or value.startswith("{") or value == "null":
            others.append(argument)
            continue
        value = value if equals else next(arguments, "")
        if not value or value.startswith("--"):
            raise ConfigError("--images needs a value: --images DIR, or --images NAME=DIR")
        name, named, folder = value.partition("=")
        if not named:
            from realgen.benchmark.inputs.image_sets import model_name  # here, because it waits for torch

            name, folder = model_name(value), value
        if name in folders:
            raise ConfigError(f"--images: {folders[name]} and {folder} are both called {name}. Give names: NAME=DIR")
        folders[name] = folder
    given = ["--policies={}", f"--images={json.dumps(folders)}"] if folders else []
    # Behind the config files, which they override, and before what else the command line says.
    ends = [i + 1 + ("=" not in a) for i, a in enumerate(others) if a.partition("=")[0] in ("-c", "--config")]
    place = max(ends, default=0)
    return [*others[:place], *given, *others[place:]]


def prepare(reader: ConfigReader, config: Mapping[str, Any]) -> RealBench:
    """Make what a config names, and read prompts and folders, to find mistakes before anything is computed."""
    from lightning.pytorch.loggers import WandbLogger

    from realgen.benchmark.detector_scoring import Scorers
    from realgen.benchmark.inputs.prompt_set import choose_evenly, read_prompt_set
    from realgen.benchmark.realbench import PolicyUnderTest, RealBench

    made = reader.make(config)
    if made.prompts is None:
        raise ConfigError(f"prompts: missing. Give a recipe: --config {RECIPE}")
    for name, logger in _given(made.loggers).items():
        if not isinstance(logger, WandbLogger):
            raise ConfigError(f"loggers.{name}: a benchmark is logged by WandbLogger only, got {type(logger).__name__}")
    real, categories = (None if each is None else Path(each) for each in (made.real, made.categories))
    prompts = read_prompt_set(Path(made.prompts), real=real, categories=categories, length=made.length)

    def make_policy(name: str) -> Any:
        return reader.make({**config, "policies": {name: config["policies"][name]}}).policies[name]

    bench = RealBench(
        prompts=choose_evenly(prompts, made.num_prompts),
        other_names=[prompt.name for prompt in prompts],
        scorers=Scorers(_given(made.detectors), _given(made.rewards), _given(made.metrics)),
        policies={
            name: PolicyUnderTest(partial(make_policy, name), config["policies"][name])
            for name in _given(made.policies)
        },
        images=_given(made.images),
        device=str(usable_device(made.device)),
        **{name: made[name] for name in ("matching", "arena", "scoring", "allow_missing", "seed", "draw_batch_size")},
    )
    bench.find_images()
    if made.arena is not None and not config["dry_run"] and config["part"] is None:
        made.arena.judge.check()
    return bench


def find_folder(config: Mapping[str, Any], argv: Sequence[str]) -> Run:
    """Choose the run's folder: ``run_dir``, or OUTPUT_DIR/RECIPE/DATE-TIME as ``realgen.fit`` does; makes nothing."""
    from realgen.cli.run_dir import Run, find_run

    recipe = first_config(gather_images(argv))
    if config["run_dir"] is not None:
        return Run(Path(config["run_dir"]), recipe)
    return find_run(
        recipe=recipe,
        run_dir=None,
        output_dir=config["output_dir"],
        ckpt_path=None,
        environment=os.environ,
        now=datetime.now(),
    )


def _run(
    bench: RealBench,
    reader: ConfigReader,
    config: Mapping[str, Any],
    folder: Path,
    argv: Sequence[str],
    part: tuple[int, int] | None,
) -> int:
    from realgen.benchmark.realbench_config import keep_config
    from realgen.benchmark.report.page import show, write_outputs

    def terminate(number: int, _: Any) -> NoReturn:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        bench.check_folder(folder)
        keep_config(reader.written, folder, command=_command(without_options(argv, "part")))
        if part is not None:
            sys.stdout.write(f"{bench.draw(folder, *part)} images are in {folder}\n")
            return 0
        results = bench.run(folder)
        results = replace(results, settings=masked({**_provenance(argv), **results.settings, "config": reader.written}))
        files = write_outputs(results, folder)
        show(results, files)
        log(results, reader, config, folder, list(files.values()), group=first_config(gather_images(argv)))
    except (KeyboardInterrupt, SystemExit) as stop:
        again = [*without_options(argv, "run_dir"), f"--run_dir={folder}"]
        sys.stderr.write(f"stopped\ngo on: {_command(again)}\n")
        return TERMINATED if isinstance(stop, SystemExit) else INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def log(
    results: Results,
    reader: ConfigReader,
    config: Mapping[str, Any],
    folder: Path,
    files: Sequence[Path],
    *,
    group: str,
) -> None:
    """Send results to a config's Weights & Biases loggers; runs lie in ``folder``, ``files`` become an artifact."""
    from lightning.pytorch.loggers import WandbLogger

    from realgen.benchmark.report.wandb_log import log_results
    from realgen.callbacks.wandb_run import keep_identity
    from realgen.cli.wandb_logger import drop_anonymous, fill_wandb_arguments, finish_wandb

    specs = _given(config["loggers"])
    name, tags = f"{folder.parent.name}-{folder.name}", [model.name for model in results.models]
    identity = fill_wandb_arguments(specs, folder, name=name, group=group, job_type="realbench", tags=tags)
    if identity is not None:
        keep_identity(folder, identity)
    loggers = _given(reader.make({"loggers": specs}).loggers).values()
    drop_anonymous(loggers)
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_hyperparams(reader.written)
            log_results(logger.experiment, results, folder, files)
            finish_wandb(0)


def _command(argv: Sequence[str]) -> str:
    return shlex.join(["python", "-m", "realgen.realbench", *argv])


def _given(components: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: component for name, component in (components or {}).items() if component is not None}


def _provenance(argv: Sequence[str]) -> dict[str, Any]:
    """Return what is needed to reproduce the results."""
    import torch

    from realgen import __version__

    return {
        "command": _command(argv),
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": {"realgen": __version__, "python": sys.version.split()[0], "torch": torch.__version__},
    }


if __name__ == "__main__":
    sys.exit(main())
