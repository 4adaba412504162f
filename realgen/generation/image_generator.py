"""Draws the images of a request that do not exist yet, and lays them out beside each other."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from realgen.callbacks.image_grid import image_grid
from realgen.data.generated_images import keep_settings, read_images, read_texts, write_image
from realgen.data.prompt_text import trace
from realgen.generation.request import Request
from realgen.policies import Policy, PromptPolicy
from realgen.policies.chat import clean
from realgen.progress import ProgressBar

COLUMNS, CAPTION_LINES = 4, 6
"""Layout of a sheet."""
KEPT = "kept as it is: "
"""Begins the line about a prompt that was not rewritten; the reason follows."""


class ImageGenerator(NamedTuple):
    """A loaded policy with an optional rewriter, and the settings that each image records."""

    request: Request
    policy: Policy
    rewriter: PromptPolicy | None
    settings: Mapping[str, Any]
    """Everything that determines the pixels, except prompt and seed."""

    @property
    def texts(self) -> dict[str, str]:
        """Return the settings as texts for the files of the images."""
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in self.settings.items()}


class ImageFile(NamedTuple):
    """An image to draw, and its file."""

    path: Path
    seed: int
    rewritten: bool


def generate(generator: ImageGenerator, prompts: Sequence[str]) -> None:
    """Draw the missing images of prompts, each given once; print prompts, rewrites and sheets on standard output."""
    out = Path(generator.request.output)
    keep_settings(out, generator.settings, cure="Take another folder.")
    tasks = {prompt: image_files_of(generator, prompt) for prompt in prompts}
    total = sum(map(len, tasks.values()))
    there = sum(file.path.exists() for files in tasks.values() for file in files)
    kept = 0
    with ProgressBar(total, done=there) as bar:
        for prompt, files in tasks.items():
            rewriting = draw(generator, prompt, files, bar)
            kept += rewriting.startswith(KEPT)
            lines = [clean(prompt), *([rewriting] if rewriting else []), str(write_sheet(files))]
            tqdm.write("\n  ".join(lines), file=sys.stdout)
    summary = f"{out}: {total - there} images drawn, {there} were there"
    of_rewrites = f"; {kept} of {len(prompts)} prompts kept as they are" if generator.rewriter is not None else ""
    tqdm.write(summary + of_rewrites, file=sys.stdout)


def image_files_of(generator: ImageGenerator, prompt: str) -> list[ImageFile]:
    """Return the files of a prompt: per seed one of the prompt as it is and, with a rewriter, one of its rewrite."""
    request = generator.request
    name = f"{trace(prompt)}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"
    kinds = {False: ""} if generator.rewriter is None else {False: "", True: "-rewritten"}
    return [
        ImageFile(Path(request.output) / name / f"seed-{seed}{kind}.png", seed, rewritten)
        for seed in range(request.seed, request.seed + request.n)
        for rewritten, kind in kinds.items()
    ]


def draw(generator: ImageGenerator, prompt: str, files: Sequence[ImageFile], bar: tqdm[Any]) -> str:
    """Draw a prompt's missing images in whole batches, as smaller ones round differently; return any rewrite."""
    size = generator.request.batch_size
    batches = [files[start : start + size] for start in range(0, len(files), size)]
    missing = [batch for batch in batches if not all(file.path.exists() for file in batch)]
    if not missing:
        return read_texts(files[-1].path).get("rewriting", "")
    bar.set_postfix_str("rewriting" if generator.rewriter else "")
    rewrite, rewriting = _rewrite(generator, prompt)

    def progress(_: str, done: int, total: int) -> None:
        bar.set_postfix_str(f"step {done}/{total}")

    for batch in missing:
        texts = [rewrite if file.rewritten else prompt for file in batch]
        images = generator.policy.sample(texts, [file.seed for file in batch], progress=progress)
        for file, text, image in zip(batch, texts, images, strict=True):
            if not image.isfinite().all():
                raise ValueError(f"the policy drew NaN for {text!r} with seed {file.seed}.")
            if not file.path.exists():
                how = {"prompt": prompt, "text": text, "seed": str(file.seed), "rewriting": rewriting}
                write_image(file.path, image, how | generator.texts)
                bar.update()
    return rewriting


def write_sheet(files: Sequence[ImageFile]) -> Path:
    """Lay out a prompt's images side by side, with a rewriter by seed; return the path of the sheet."""
    paths = [file.path for file in files]
    captions = [_caption(file) for file in files]
    columns = 2 if any(file.rewritten for file in files) else min(len(files), COLUMNS)
    path = paths[0].parent / "sheet.png"
    image_grid(read_images(paths), captions, columns=columns, max_lines=CAPTION_LINES).save(path)
    return path


def _caption(file: ImageFile) -> str:
    texts = read_texts(file.path)
    rewritten = "kept as it is" if texts["rewriting"].startswith(KEPT) else "rewritten"
    return f"{rewritten if file.rewritten else 'as it is'}, seed {file.seed}\n{clean(texts['text'])}"


def _rewrite(generator: ImageGenerator, prompt: str) -> tuple[str, str]:
    """Return the text that the policy draws, and the line about it for the user."""
    if generator.rewriter is None:
        return prompt, ""
    # The prompt is part of the seed, or all prompts would get the same additions; and each prompt is rewritten alone,
    # because other prompts in the batch would change the rounding.
    seed = hashlib.sha256(f"{generator.request.seed} {prompt}".encode()).digest()[:4]
    rewrite = generator.rewriter.rewrite([prompt], [int.from_bytes(seed, "big")])[0]
    if rewrite.formatted:
        return rewrite.text, f"rewritten: {rewrite.text}"
    if rewrite.skipped:
        return rewrite.text, f"{KEPT}it is too long for the rewriter, or holds nothing that can be read"
    return rewrite.text, f"{KEPT}the rewriter {'did not come to an end' if rewrite.truncated else 'broke the format'}"
