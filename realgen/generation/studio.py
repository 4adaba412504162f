"""Draws the pictures of a request that are not there yet, and lays them out beside each other."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from realgen.callbacks.image_grid import image_grid
from realgen.data.generated_images import keep_settings, read_images, read_texts, write_image
from realgen.generation.request import Request
from realgen.policies import Policy, PromptPolicy
from realgen.policies.completion import clean

COLUMNS, CAPTION_LINES = 4, 6
"""Of a sheet."""
KEPT = "kept as it is: "
"""How it is told that a prompt was not rewritten, and the reason after it."""


class Studio(NamedTuple):
    """What draws, loaded, and what the pictures are told to say of it."""

    request: Request
    policy: Policy
    rewriter: PromptPolicy | None
    settings: Mapping[str, Any]
    """All that decides the pixels but prompt and seed."""

    @property
    def told(self) -> dict[str, str]:
        """The settings as texts for the pictures' files."""
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in self.settings.items()}


class Picture(NamedTuple):
    """A file to be drawn."""

    path: Path
    seed: int
    rewritten: bool


def generate(studio: Studio, prompts: Sequence[str]) -> None:
    """Draw what is missing; the prompts, their rewrites and the sheets are told on standard output.

    Args:
        studio: What draws.
        prompts: What is drawn.

    Raises:
        ValueError: If the folder holds images of other settings.
    """
    out = Path(studio.request.out)
    keep_settings(out, studio.settings, cure="Take another folder.")
    tasks = {prompt: pictures_of(studio, prompt) for prompt in prompts}
    total = sum(map(len, tasks.values()))
    there = sum(picture.path.exists() for pictures in tasks.values() for picture in pictures)
    kept = 0
    with tqdm(total=total, initial=there, unit="picture", disable=None) as bar:
        for prompt, pictures in tasks.items():
            rewriting = draw(studio, prompt, pictures, bar)
            kept += rewriting.startswith(KEPT)
            lines = [clean(prompt), *([rewriting] if rewriting else []), str(write_sheet(pictures))]
            tqdm.write("\n  ".join(lines), file=sys.stdout)
    summary = f"{out}: {total - there} pictures drawn, {there} were there"
    of_rewrites = f"; {kept} of {len(prompts)} prompts kept as they are" if studio.rewriter is not None else ""
    tqdm.write(summary + of_rewrites, file=sys.stdout)


def pictures_of(studio: Studio, prompt: str) -> list[Picture]:
    """The files of a prompt: for each seed one of the prompt as it is and, with a rewriter, one of its rewrite."""
    request = studio.request
    slug = "-".join(re.findall(r"[a-z0-9]+", prompt.lower()))[:40]
    name = f"{slug}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}".lstrip("-")
    kinds = {False: ""} if studio.rewriter is None else {False: "", True: "-rewritten"}
    return [
        Picture(Path(request.out) / name / f"seed-{seed}{kind}.png", seed, rewritten)
        for seed in range(request.seed, request.seed + request.n)
        for rewritten, kind in kinds.items()
    ]


def draw(studio: Studio, prompt: str, pictures: Sequence[Picture], bar: tqdm[Any]) -> str:
    """Draw the missing pictures of a prompt.

    Args:
        studio: What draws.
        prompt: What is drawn.
        pictures: Its files. A batch of which one is missing is drawn as a whole, for a smaller one would round
            otherwise.
        bar: Goes on with each picture.

    Returns:
        The rewrite, for the user to read; empty without a rewriter.

    Raises:
        ValueError: If the policy draws what is no picture.
    """
    size = studio.request.batch_size
    batches = [pictures[start : start + size] for start in range(0, len(pictures), size)]
    missing = [batch for batch in batches if not all(picture.path.exists() for picture in batch)]
    if not missing:
        return read_texts(pictures[-1].path).get("rewriting", "")
    bar.set_postfix_str("rewriting" if studio.rewriter else "")
    text, rewriting = _rewrite(studio, prompt)
    studio.policy.progress = lambda _, done, total: bar.set_postfix_str(f"step {done}/{total}")
    for batch in missing:
        texts = [text if picture.rewritten else prompt for picture in batch]
        images = studio.policy.sample(texts, [picture.seed for picture in batch])
        for picture, told, image in zip(batch, texts, images, strict=True):
            if not image.isfinite().all():
                raise ValueError(f"the policy drew no picture but NaN for {told!r} with seed {picture.seed}.")
            if not picture.path.exists():
                how = {"prompt": prompt, "text": told, "seed": str(picture.seed), "rewriting": rewriting}
                write_image(picture.path, image, how | studio.told)
                bar.update()
    return rewriting


def write_sheet(pictures: Sequence[Picture]) -> Path:
    """Lay out the pictures of a prompt beside each other, with a rewriter those of one seed.

    Args:
        pictures: Of one prompt, all drawn.

    Returns:
        Path of the sheet.
    """
    paths = [picture.path for picture in pictures]
    captions = [_caption(picture) for picture in pictures]
    columns = 2 if any(picture.rewritten for picture in pictures) else min(len(pictures), COLUMNS)
    path = paths[0].parent / "sheet.png"
    image_grid(read_images(paths), captions, columns=columns, max_lines=CAPTION_LINES).save(path)
    return path


def _caption(picture: Picture) -> str:
    told = read_texts(picture.path)
    rewritten = "kept as it is" if told["rewriting"].startswith(KEPT) else "rewritten"
    return f"{rewritten if picture.rewritten else 'as it is'}, seed {picture.seed}\n{clean(told['text'])}"


def _rewrite(studio: Studio, prompt: str) -> tuple[str, str]:
    """What the policy is told, and what to say of it."""
    if studio.rewriter is None:
        return prompt, ""
    # By the prompt, too: one seed draws the same additions for all. And alone: others would change its rounding.
    seed = hashlib.sha256(f"{studio.request.seed} {prompt}".encode()).digest()[:4]
    rewrite = studio.rewriter.rewrite([prompt], [int.from_bytes(seed, "big")])[0]
    if rewrite.formatted:
        return rewrite.text, f"rewritten: {rewrite.text}"
    if rewrite.skipped:
        return rewrite.text, f"{KEPT}it is too long for the rewriter, or holds nothing that can be read"
    return rewrite.text, f"{KEPT}the rewriter {'did not come to an end' if rewrite.truncated else 'broke the format'}"
