"""Make everything in ``data/`` again: the nano models, the prompt shards, the small RealBench, the figures.

    python -m experiments.nano.build

What is finished is left alone, and what was killed goes on from its last checkpoint. ``--force`` makes the chosen
stages again, but of those that were made with their help only the figures: after ``--only sd3 --force`` the detectors
still know the old samples. ``--steps_scale 0.001 --data_scale 0.01`` tries it all out, for models that are no good.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.nano import (
    clip,
    corpus,
    detectors,
    diffusion,
    encoder,
    figures,
    forensic_chat,
    llm,
    probe,
    prompts,
    realbench,
    vae,
)
from experiments.nano.readme import figures_table, fill_all

STAGES = "vae sd3 clip encoder omniaid effort forensic_chat imagenet_probe llm shards realbench figures"


@dataclass(frozen=True)
class Stage:
    """One thing to make."""

    name: str
    """What ``--only`` calls it."""
    finished: Path
    """The file that ``make`` writes last."""
    make: Callable[[], object]
    """Makes it, or goes on making it."""
    needs: tuple[str, ...] = ()
    """Stages whose results ``make`` reads."""
    kept_fresh: bool = False
    """Whether its result is out of date as soon as one of ``needs`` is made again."""


@dataclass(frozen=True)
class Scale:
    """How much of the default every stage does.

    Raises:
        ValueError: If a factor is not above 0.
    """

    steps: float = 1.0
    """Factor of all training steps."""
    data: float = 1.0
    """Factor of all numbers of crops and samples."""

    def __post_init__(self) -> None:
        for name, factor in {"steps_scale": self.steps, "data_scale": self.data}.items():
            if not factor > 0:
                raise ValueError(f"--{name} must be above 0, got {factor}.")

    def of_steps(self, number: int) -> int:
        """Scaled number of steps, at least 1."""
        return max(1, round(number * self.steps))

    def of_data(self, number: int) -> int:
        """Scaled number of crops or samples, at least 1."""
        return max(1, round(number * self.data))


def make_vae(output: Path, scale: Scale) -> None:
    """Train and refine in a folder beside, then move it into place: a VAE that is there has been refined."""
    unfinished = output.with_name(output.name + ".unfinished")
    trained = (unfinished / "diffusion_pytorch_model.safetensors").is_file()
    vae.make_vae(
        unfinished,
        crops=scale.of_data(vae.CROPS),
        steps=0 if trained else scale.of_steps(vae.STEPS),
        refine_steps=scale.of_steps(vae.REFINE_STEPS),
    )
    shutil.rmtree(output, ignore_errors=True)
    unfinished.rename(output)


def make_detector(detector: str, nano: Path, scale: Scale) -> None:
    """Train ``omniaid`` or ``effort``."""
    detectors.make_detector(
        detector,
        nano / detector,
        pretrained=nano / "sd3",
        crops=scale.of_data(detectors.CROPS),
        samples=scale.of_data(detectors.SAMPLES),
        held_out_crops=scale.of_data(corpus.HELD_OUT_CROPS),
        held_out_samples=scale.of_data(detectors.HELD_OUT_SAMPLES),
        steps=scale.of_steps(detectors.STEPS),
    )


def make_forensic_chat(nano: Path, scale: Scale) -> None:
    """Train the vision-language model of Forensic-Chat."""
    forensic_chat.make_forensic_chat(
        nano / "forensic_chat",
        pretrained=nano / "sd3",
        crops=scale.of_data(forensic_chat.CROPS),
        samples=scale.of_data(forensic_chat.SAMPLES),
        held_out_crops=scale.of_data(corpus.HELD_OUT_CROPS),
        held_out_samples=scale.of_data(detectors.HELD_OUT_SAMPLES),
        steps=scale.of_steps(forensic_chat.STEPS),
    )


def make_probe(nano: Path, scale: Scale) -> None:
    """Fit the linear probe on ImageNet features."""
    probe.make_probe(
        nano / "imagenet_probe",
        pretrained=nano / "sd3",
        crops=scale.of_data(probe.CROPS),
        samples=scale.of_data(probe.SAMPLES),
        held_out_crops=scale.of_data(corpus.HELD_OUT_CROPS),
        held_out_samples=scale.of_data(detectors.HELD_OUT_SAMPLES),
    )


def make_figures(nano: Path, scale: Scale) -> None:
    """Measure the models, and tell of it in their README where there is one."""
    most = figures.PROMPTS_PER_SUBJECT
    measured = figures.measure(
        nano,
        held_out_crops=scale.of_data(corpus.HELD_OUT_CROPS),
        prompts_per_subject=min(scale.of_data(most), most),
    )
    readme = nano / "README.md"
    if readme.is_file():
        readme.write_text(fill_all(readme.read_text(encoding="utf-8"), measured), encoding="utf-8")
    (nano / "figures.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")


def plan(nano: Path, shards: Path, scale: Scale) -> list[Stage]:
    """Every stage, in order.

    Args:
        nano: Folder of the models.
        shards: Folder of the prompt shards; the small RealBench lies beside it.
        scale: How much each stage does.

    Returns:
        Stages; each needs only earlier ones.
    """
    held_out = scale.of_data(corpus.HELD_OUT_CROPS)

    def make_sd3() -> None:
        crops, steps = scale.of_data(diffusion.CROPS), scale.of_steps(diffusion.STEPS)
        diffusion.make_pipeline(nano / "sd3", crops=crops, steps=steps)

    def make_clip() -> None:
        crops, steps = scale.of_data(clip.CROPS), scale.of_steps(clip.STEPS)
        clip.make_clip(nano / "clip", crops=crops, held_out_crops=held_out, steps=steps)

    def make_encoder() -> None:
        crops, steps = scale.of_data(encoder.CROPS), scale.of_steps(encoder.STEPS)
        encoder.make_encoder(nano / "encoder", crops=crops, held_out_crops=held_out, steps=steps)

    def make_llm() -> None:
        llm.make_llm(nano / "llm", steps=scale.of_steps(llm.STEPS))

    chat, bench = nano / "forensic_chat/figures.json", shards.with_name("realbench")
    models = ("vae", "sd3", "clip", "encoder", "omniaid", "effort", "forensic_chat", "imagenet_probe", "llm")
    return [
        Stage("vae", nano / "sd3/vae/diffusion_pytorch_model.safetensors", lambda: make_vae(nano / "sd3/vae", scale)),
        Stage("sd3", nano / "sd3/model_index.json", make_sd3, needs=("vae",)),
        Stage("clip", nano / "clip/figures.json", make_clip),
        Stage("encoder", nano / "encoder/figures.json", make_encoder),
        Stage("omniaid", nano / "omniaid/figures.json", lambda: make_detector("omniaid", nano, scale), needs=("sd3",)),
        Stage("effort", nano / "effort/figures.json", lambda: make_detector("effort", nano, scale), needs=("sd3",)),
        Stage("forensic_chat", chat, lambda: make_forensic_chat(nano, scale), needs=("sd3",)),
        Stage(
            "imagenet_probe",
            nano / "imagenet_probe/figures.json",
            lambda: make_probe(nano, scale),
            needs=("sd3",),
        ),
        Stage("llm", nano / "llm/figures.json", make_llm),
        Stage("shards", shards / "validation/validation-000000.tar", lambda: prompts.write_prompts(shards)),
        Stage("realbench", bench / "categories.json", lambda: realbench.write_realbench(bench)),
        Stage("figures", nano / "figures.json", lambda: make_figures(nano, scale), needs=models, kept_fresh=True),
    ]


def run(stages: Sequence[Stage], *, only: Sequence[str] | None = None, force: bool = False) -> list[str]:
    """Make the stages that are not finished.

    Args:
        stages: In order.
        only: Names of the stages to look at; None for all.
        force: Make chosen stages that are finished again. Their last file is removed first, so that a killed run can
            be continued without ``force``.

    Returns:
        Names of the stages that were made.

    Raises:
        ValueError: If ``only`` names an unknown stage, or a chosen stage needs one that is neither chosen nor finished.
    """
    names = [stage.name for stage in stages]
    unknown = sorted(set(only or ()) - set(names))
    if unknown:
        raise ValueError(f"--only does not know {', '.join(unknown)}; known: {', '.join(names)}.")
    chosen = [stage for stage in stages if only is None or stage.name in only]
    there = {stage.name for stage in stages if stage in chosen or stage.finished.is_file()}
    for stage in chosen:
        missing = [name for name in stage.needs if name not in there]
        if missing:
            raise ValueError(f"--only {stage.name} needs {', '.join(missing)}, not finished yet: choose it as well.")
    if force:
        for stage in chosen:
            stage.finished.unlink(missing_ok=True)
    made = []
    for number, stage in enumerate(chosen, start=1):
        head = f"[{number}/{len(chosen)}] {stage.name}"
        if stage.finished.is_file():
            print(f"{head}: there already, {stage.finished}", flush=True)
            continue
        print(f"{head} ...", flush=True)
        start = time.monotonic()
        for later in stages:
            if later.kept_fresh and stage.name in later.needs:
                later.finished.unlink(missing_ok=True)
        stage.make()
        made.append(stage.name)
        print(f"{head}: made in {(time.monotonic() - start) / 60:.1f} min", flush=True)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, or 1 with the cause on standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("data/nano"), help="folder of the models")
    parser.add_argument("--prompts", type=Path, default=Path("data/prompts"), help="folder of the prompt shards")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="STAGE",
        help=STAGES,
    )
    parser.add_argument("--force", action="store_true", help="make chosen stages again that are finished")
    parser.add_argument("--steps_scale", type=float, default=1.0, help="factor of all training steps")
    parser.add_argument("--data_scale", type=float, default=1.0, help="factor of all numbers of crops and samples")
    args = parser.parse_args(arguments)
    try:
        stages = plan(args.output, args.prompts, Scale(args.steps_scale, args.data_scale))
        run(stages, only=args.only, force=args.force)
        *models, last = stages
        if not last.finished.is_file() and all(stage.finished.is_file() for stage in models):
            run(stages, only=[last.name])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if last.finished.is_file():
        print(figures_table(json.loads(last.finished.read_text(encoding="utf-8"))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
