"""The benchmark from prompts to results: draw what is missing, look at the files, score them."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from realgen.benchmark.arena.arena import Arena
from realgen.benchmark.arena.questions import pair_questions, single_questions
from realgen.benchmark.arena.scoring import with_arena
from realgen.benchmark.detector_scoring import DetectorScoringRun, Scorers, ScoringSettings
from realgen.benchmark.inputs.drawing import CURE, adapter_digests, draw_images, missing_images
from realgen.benchmark.inputs.image_sets import BenchmarkPrompt, ImageSet, find_image_set, listed, pair
from realgen.benchmark.inputs.matching import FileFormats, FormatMatching, check_matching, survey
from realgen.benchmark.results import REAL, Results, with_digests
from realgen.checks import check_at_least
from realgen.data.generated_images import check_settings, keep_settings
from realgen.data.image_files import ImageFile, check_disjoint, is_image
from realgen.masking import recorded
from realgen.policies.base import Policy
from realgen.progress import ProgressBar

IMAGES, ANSWERS = "images", "arena.jsonl"
"""Folder of a run in which each policy has a folder of images, and its file of a judge's answers."""


@dataclass(frozen=True)
class PolicyUnderTest:
    """A policy whose images are scored."""

    make: Callable[[], Policy]
    """Makes the policy; called where there is something to draw, and what it made is dropped afterwards."""
    config: Any
    """JSON values that it was made of; images drawn with others are not mixed with its own."""


@dataclass(frozen=True)
class RealBench:
    """One run of the benchmark; ValueError for nothing to score or to score with, a name twice, or a bad number."""

    prompts: Sequence[BenchmarkPrompt]
    scorers: Scorers
    policies: Mapping[str, PolicyUnderTest] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    """Folders of images made by anything, by name."""
    matching: FormatMatching | None = None
    """How files are made alike; None leaves them as they are."""
    arena: Arena | None = None
    """Who compares the images pair by pair; None for nobody."""
    scoring: ScoringSettings = field(default_factory=ScoringSettings)
    allow_missing: bool = False
    """Leave prompts out of which a folder has no image."""
    other_names: Collection[str] = ()
    """Names of prompts that are not scored, such as what ``num_prompts`` leaves out: their images are no strays."""
    seed: int = 0
    draw_batch_size: int = 8
    device: str = "cpu"
    """Of policies, scorers and a local judge."""

    def __post_init__(self) -> None:
        both = sorted(self.policies.keys() & self.images.keys())
        if both:
            raise ValueError(f"policies and images must have names of their own, both have {both[0]}.")
        for name in (*self.policies, *self.images):
            if name in ("", ".", "..", REAL) or "/" in name:
                raise ValueError(f"the name of a model must be usable as a folder's, and not {REAL!r}; got {name!r}.")
        if not self.scorers.names and self.arena is None:
            raise ValueError("there is nothing to score with: give one of detectors, rewards, metrics and arena.")
        if not self.policies and not self.images:
            raise ValueError("there is nothing to score: give policies, or images (--images DIR).")
        check_at_least(1, draw_batch_size=self.draw_batch_size)
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be 0 to 2^32 - 1, got {self.seed}.")

    @property
    def has_real_images(self) -> bool:
        """Return whether the prompts have real images."""
        return all(prompt.real_image is not None for prompt in self.prompts)

    def find_images(self) -> tuple[list[BenchmarkPrompt], list[ImageSet]]:
        """List folders and the prompts that all have; ValueError if images are missing, or a real one is in them."""
        sets = [find_image_set(name, folder) for name, folder in self.images.items()]
        real = [ImageFile(each.real_image, each.name) for each in self.prompts if each.real_image is not None]
        for images in sets:
            files = [ImageFile(path, name) for name, path in images.files.items()]
            check_disjoint({REAL: real, f"images.{images.name}": files})
        return pair(self.prompts, sets, allow_missing=self.allow_missing), sets

    def check_folder(self, folder: Path) -> None:
        """Raise ValueError if what a run's folder holds was not drawn with these settings, from these prompts."""
        for name in self.policies:
            check_settings(folder / IMAGES / name, self._settings(name), cure=CURE)
            missing_images(self.prompts, folder / IMAGES / name, seed=self.seed)

    def run(self, folder: Path) -> Results:
        """Draw what the run's folder lacks in ``images/NAME``, look at the files, and score them.

        Paths of images in the folder are relative to it.

        Raises:
            ValueError: If something cannot be read, or does not fit together.
            RuntimeError: If the judge of the arena gives up, or judged no image.
        """
        start = time.monotonic()
        if self.arena is not None:
            self.arena.judge.check()  # a missing key is said before anything is drawn
        prompts, given = self.find_images()
        drawn = [self._draw(name, prompts, folder / IMAGES / name) for name in self.policies]
        sets = [*drawn, *given]
        formats = self._survey(prompts, sets)
        left_out = len(self.prompts) - len(prompts)
        strays, lacking = self._unpaired(given)
        warnings = check_matching(self.matching, formats) + _unpaired_texts(strays, lacking)
        warnings += [f"{left_out} prompts are left out for all: a folder has no image of them"] * (left_out > 0)
        # Before the detectors: when the judge gives up, only its answers were made, and they are kept.
        held = None
        if self.arena is not None:
            self.arena.judge.to(self.device)
            held = self.arena.run(prompts, sets, folder / ANSWERS, matching=self.matching)
            if not held.judged:
                raise RuntimeError(
                    f"the judge {held.judge} judged none of the images: of {held.questions} questions {held.failed} "
                    f"got no answer, {held.unreadable} none that can be read (see {folder / ANSWERS}). "
                    "--arena.ask_again=true asks once more, --arena=null leaves the judge out."
                )
        with ProgressBar((len(sets) + self.has_real_images) * len(prompts), "scoring") as bar:
            run = DetectorScoringRun(
                prompts,
                self.scorers.to(self.device),
                matching=self.matching,
                settings=self.scoring,
                device=self.device,
                advance=bar.update,
            )
            results = run.run(sets, real=self.has_real_images)
        if held is not None:
            results = with_arena(results, held)
        settings = {
            "seconds": round(time.monotonic() - start, 1),
            "device": self.device,
            "prompts": len(prompts),
            "left out": left_out,
            "prompts without an image": {name: len(names) for name, names in lacking.items()},
            "images without a prompt": {name: len(names) for name, names in strays.items()},
            "seed": self.seed,
            "matching": _matching_text(self.matching),
            "files": {name: str(found) for name, found in formats.items()},
            "warnings": warnings,
        }
        return relative_to(with_digests(replace(results, settings=settings), folder), folder)

    def draw(self, folder: Path, number: int, parts: int) -> int:
        """Draw every ``parts``-th prompt from the ``number``-th on, and return the number of images; see ``run``."""
        prompts = self.find_images()[0][number - 1 :: parts]
        for name in self.policies if prompts else ():
            self._draw(name, prompts, folder / IMAGES / name)
        return len(prompts) * len(self.policies)

    def plan(self, folder: Path) -> list[str]:
        """Say what ``run`` would do; read files and write nothing. ValueError if images do not fit."""
        prompts, given = self.find_images()
        lines, drawn, complete = [], [], True
        for name in self.policies:
            place = folder / IMAGES / name
            check_settings(place, self._settings(name), cure=CURE)
            missing = missing_images(prompts, place, seed=self.seed)
            complete = complete and not missing
            lines.append(f"{name}: {len(missing)} images to draw, {len(prompts) - len(missing)} there already")
            drawn.append(ImageSet(name, place, {prompt.name: place / f"{prompt.name}.png" for prompt in prompts}))
        sets = [*drawn, *given]
        number = (len(sets) + self.has_real_images) * len(prompts)
        lines.append(f"{number} images to score, by {', '.join(self.scorers.names) or 'no detector'}")
        lines += _unpaired_texts(*self._unpaired(given))
        if self.arena is not None and complete:
            lines.append(f"arena: {self.arena.plan(prompts, sets, folder / ANSWERS, matching=self.matching)}")
        elif self.arena is not None:
            asked = pair_questions(prompts, sets, against=self.arena.against, protocol=self.arena.protocol)
            calls = sum(1 + (backward is not None) for _, backward in asked)
            calls += len(single_questions(prompts, sets)) if self.arena.single else 0
            lines.append(f"arena: about {calls} calls of the judge; images that are not drawn yet may turn out equal")
        return lines

    def _draw(self, name: str, prompts: Sequence[BenchmarkPrompt], folder: Path) -> ImageSet:
        keep_settings(folder, self._settings(name), cure=CURE)
        missing = missing_images(prompts, folder, seed=self.seed)
        if missing:
            policy = self.policies[name].make()
            policy.load()
            policy.to(self.device)
            with ProgressBar(len(prompts), f"drawing {name}", done=len(prompts) - len(missing)) as bar:
                how = {"seed": self.seed, "batch_size": self.draw_batch_size}
                draw_images(policy, prompts, missing, folder, **how, advance=bar.update)
        return find_image_set(name, str(folder))

    def _settings(self, name: str) -> dict[str, Any]:
        """Return what the images of a policy depend on."""
        config = self.policies[name].config
        return recorded({"policy": config, "adapters": adapter_digests(config), "seed": self.seed})

    def _survey(self, prompts: Sequence[BenchmarkPrompt], sets: Sequence[ImageSet]) -> dict[str, FileFormats]:
        files = {images.name: [images.files[prompt.name] for prompt in prompts] for images in sets}
        if self.has_real_images:
            files[REAL] = [prompt.real_image for prompt in prompts if prompt.real_image is not None]
        with ProgressBar(sum(map(len, files.values())), "reading files") as bar:
            return {name: survey(paths, argument=name, advance=bar.update) for name, paths in files.items()}

    def _unpaired(self, given: Sequence[ImageSet]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Find images that belong to no prompt, and scored prompts without an image, by folder that was given."""
        scored = {prompt.name for prompt in self.prompts}
        folders = {prompt.real_image.parent for prompt in self.prompts if prompt.real_image is not None}
        names = {images.name: images.files.keys() for images in given}
        there = {**names, REAL: {path.stem for folder in folders for path in folder.iterdir() if is_image(path)}}
        strays = {name: sorted(found - scored.union(self.other_names)) for name, found in there.items()}
        lacking = {name: sorted(scored - found) for name, found in names.items()}
        return {n: found for n, found in strays.items() if found}, {n: found for n, found in lacking.items() if found}


def relative_to(results: Results, folder: Path) -> Results:
    """Make the paths of images inside a run's folder relative to it, so that the folder can be moved."""
    root = folder.resolve()

    def inside(path: str) -> str:
        return str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path

    moved = results.map_models(lambda model: replace(model, images=inside(str(Path(model.images).resolve()))))
    return replace(moved, rows=tuple(replace(row, file=inside(row.file)) for row in results.rows))


def _unpaired_texts(strays: Mapping[str, Sequence[str]], lacking: Mapping[str, Sequence[str]]) -> list[str]:
    texts = [
        f"{name}: {len(names)} images belong to no prompt, they are not scored: {listed(names)}"
        for name, names in strays.items()
    ]
    return texts + [f"{name}: {len(names)} prompts have no image: {listed(names)}" for name, names in lacking.items()]


def _matching_text(matching: FormatMatching | None) -> str:
    if matching is None:
        return "none: files as they are"
    jpeg = "no JPEG round trip" if matching.quality is None else f"JPEG quality {matching.quality}"
    return f"centred squares of {matching.size} pixels, {jpeg}, for all images"
