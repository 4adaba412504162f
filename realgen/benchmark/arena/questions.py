"""Which questions an arena asks, in what order of images, and what makes two questions the same."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import chain, combinations, product
from pathlib import Path
from typing import Literal

from realgen.benchmark.inputs.image_sets import BenchmarkPrompt, ImageSet
from realgen.benchmark.inputs.matching import FormatMatching
from realgen.benchmark.results import REAL
from realgen.judges.base import ArenaJudge, Kind

Protocol = Literal["swapped", "published"]
Against = Literal["real", "models", "both", "none"]


@dataclass(frozen=True)
class Shown:
    """An image in a question."""

    model: str
    """Whose; ``real`` for the real image."""
    file: Path


@dataclass(frozen=True)
class Question:
    """What a judge is asked once: a pair in one order, or a single image."""

    prompt: BenchmarkPrompt
    first: Shown
    """The image shown first, or alone."""
    second: Shown | None = None
    """The image shown second; None for a single one."""

    @property
    def kind(self) -> Literal["compare", "single"]:
        """Return whether it is of a pair or of one image."""
        return "single" if self.second is None else "compare"

    @property
    def name(self) -> str:
        """Return in words what it is of."""
        second = "" if self.second is None else f" and {self.second.file}"
        return f"{self.first.file}{second}"


PairQuestions = tuple[Question, Question | None]
"""A pair with the first contestant shown first, and shown second; None in the published protocol."""


def pair_questions(
    prompts: Sequence[BenchmarkPrompt], sets: Sequence[ImageSet], *, against: Against, protocol: Protocol
) -> list[PairQuestions]:
    """Return all pairs of an arena, prompt by prompt, so that a run cut short has judged some prompts in full.

    Every set has an image of each prompt. Of two sets the earlier is the first contestant, and a model is before
    ``real``. ``published`` shows the first contestant first, always; ``swapped`` asks in both orders.

    Raises:
        ValueError: If real images are missing that are asked for, or there is one model only to be compared.
    """
    if against in {"models", "both"} and len(sets) < 2:
        raise ValueError(f"against={against} compares models with each other, and needs at least two; got {len(sets)}.")
    if against in {"real", "both"}:
        missing = [prompt.name for prompt in prompts if prompt.real_image is None]
        if missing:
            raise ValueError(
                f"against={against} needs the real images; {len(missing)} prompts have none: {missing[0]}."
            )
    return [
        (Question(prompt, one, two), Question(prompt, two, one) if protocol == "swapped" else None)
        for prompt in prompts
        for one, two in _contests(*_shown(prompt, sets), against)
    ]


def single_questions(prompts: Sequence[BenchmarkPrompt], sets: Sequence[ImageSet]) -> list[Question]:
    """Ask real or fake of every model's images and of the real images, without which the former mean little."""
    return [Question(prompt, shown) for prompt in prompts for shown in chain(*_shown(prompt, sets))]


def question_keys(
    questions: Iterable[Question], judge: ArenaJudge, matching: FormatMatching | None
) -> dict[Question, str]:
    """Tell questions apart by what answers depend on: judge, question, images as shown, prompt if it is read."""
    kinds: tuple[Kind, ...] = ("compare", "single")
    identities = {kind: judge.identity(kind) for kind in kinds}
    made_alike = None if matching is None else asdict(matching)

    @cache
    def digest(path: Path) -> str:
        try:
            return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}.") from error

    keys = {}
    for question in questions:
        shown = [question.first] if question.second is None else [question.first, question.second]
        content: Mapping[str, object] = {
            "judge": identities[question.kind],
            "images": [digest(image.file) for image in shown],
            "matching": made_alike,
            "prompt": question.prompt.prompt if judge.reads_prompt else None,
        }
        text = json.dumps(content, sort_keys=True, ensure_ascii=True)
        keys[question] = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return keys


def _shown(prompt: BenchmarkPrompt, sets: Sequence[ImageSet]) -> tuple[list[Shown], list[Shown]]:
    """Return the models' images of a prompt, and its real image, if there is one."""
    real = [] if prompt.real_image is None else [Shown(REAL, prompt.real_image)]
    return [Shown(images.name, images.files[prompt.name]) for images in sets], real


def _contests(models: Sequence[Shown], real: Sequence[Shown], against: Against) -> Iterator[tuple[Shown, Shown]]:
    if against in {"real", "both"}:
        yield from product(models, real)
    if against in {"models", "both"}:
        yield from combinations(models, 2)
