"""Draws a policy's images of the prompts into a folder, one file per prompt, and goes on where it was killed."""

import hashlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from realgen import __version__
from realgen.benchmark.inputs.image_sets import BenchmarkPrompt
from realgen.data.generated_images import read_texts, write_image
from realgen.data.order import prompt_seed
from realgen.image_decoding import open_image
from realgen.policies.base import Policy
from realgen.policies.trained_adapters import PREFIXES

CURE = "Choose another --run_dir, or the old settings."
"""Where a folder holds images of other settings."""
REWRITTEN = "rewritten"
"""Of an image's metadata: the text that the image model read, where a language model had rewritten the prompt."""


def image_seed(seed: int, prompt: BenchmarkPrompt) -> int:
    """Return the seed of a prompt's image: a function of the run's seed, the prompt and its name, not of the others."""
    return prompt_seed(f"{seed}/{prompt.name}", prompt.prompt)


def adapter_digests(config: Any) -> dict[str, str]:
    """Return the SHA-256, by folder, of the trained adapters that a config names: other weights are other settings."""
    if isinstance(config, dict | list):
        parts = [adapter_digests(child) for child in (config.values() if isinstance(config, dict) else config)]
        return {folder: digest for part in parts for folder, digest in part.items()}
    paths = [path for name in PREFIXES if isinstance(config, str) and (path := Path(config, name)).is_file()]
    return {str(path.parent): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def rewritten_prompt(path: Path) -> str:
    """Return the text of which ``draw_images`` drew an image; empty where that was the prompt itself."""
    with open_image(path) as image:
        return str(image.info.get(REWRITTEN, ""))


def missing_images(prompts: Sequence[BenchmarkPrompt], folder: Path, *, seed: int) -> list[BenchmarkPrompt]:
    """Return the prompts that have no image; ValueError if an image is of another prompt or seed, or unreadable."""
    missing = []
    for prompt in prompts:
        path = folder / f"{prompt.name}.png"
        if not path.exists():
            missing.append(prompt)
            continue
        wanted = _metadata(prompt, seed)
        texts = read_texts(path)
        found = {key: texts.get(key) for key in wanted}
        if found != wanted:
            raise ValueError(f"{path} was drawn from {found}, expected {wanted}. Choose another --run_dir.")
    return missing


def draw_images(
    policy: Policy,
    prompts: Sequence[BenchmarkPrompt],
    missing: Collection[BenchmarkPrompt],
    folder: Path,
    *,
    seed: int,
    batch_size: int,
    advance: Callable[[int], object] = lambda number: None,
) -> None:
    """Draw prompts and save each image as a PNG file with prompt and seed in it; a file is there whole or not at all.

    The batches are those of all prompts, also where only some are missing: an image's last bits depend on how many
    others are computed beside it, so a run that was killed would else end with other images than one that was not. Only
    the images of ``missing``, what ``missing_images`` gave, are saved as ``NAME.png`` into the folder, and batches
    without any are not drawn. The policy is loaded, on its device. ``advance`` is called with the number of saved
    images after each batch.

    Raises:
        ValueError: If the policy draws NaN, or cannot draw at all.
    """
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        wanted = [row for row, prompt in enumerate(batch) if prompt in missing]
        if not wanted:
            continue
        seeds = [image_seed(seed, prompt) for prompt in batch]
        images, rewrites = policy.sample_rewritten([prompt.prompt for prompt in batch], seeds)
        if images.shape[-1] == 0:
            raise ValueError(f"{type(policy).__name__} draws no images; give it an image policy.")
        finite = images.isfinite().flatten(1).all(dim=1).tolist()
        for row in wanted:
            prompt = batch[row]
            if not finite[row]:
                raise ValueError(f"the policy drew NaN for {prompt.name} ({prompt.prompt!r}).")
            text = {} if rewrites is None else {REWRITTEN: rewrites[row].text}
            how = {**_metadata(prompt, seed), **text, "software": f"realgen {__version__}"}
            write_image(folder / f"{prompt.name}.png", images[row], how)
        advance(len(wanted))


def _metadata(prompt: BenchmarkPrompt, seed: int) -> dict[str, str]:
    return {"prompt": prompt.prompt, "seed": str(image_seed(seed, prompt))}
