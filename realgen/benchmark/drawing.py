"""Draws a policy's images of the prompts into a folder, one file per prompt, and goes on where it was killed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin
from torch import Tensor

from realgen import __version__
from realgen.benchmark.prompt_set import BenchmarkPrompt
from realgen.data.order import prompt_seed
from realgen.functional.images import to_uint8
from realgen.policies.base import Policy
from realgen.policies.trained_adapters import PREFIXES

SETTINGS_FILE = "settings.json"
"""Beside the images: what they were drawn with."""
REWRITTEN = "rewritten"
"""Of an image's metadata: what the image model was told, where a language model had rewritten the prompt."""


def image_seed(seed: int, prompt: BenchmarkPrompt) -> int:
    """Seed of a prompt's image: a function of the run's seed, the prompt and its name, not of the other prompts."""
    return prompt_seed(f"{seed}/{prompt.name}", prompt.prompt)


def claim_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder of a model's images, or see that what it holds was drawn with the same settings.

    Args:
        folder: Of the images.
        settings: JSON values: what the images depend on.

    Raises:
        ValueError: If it holds images that were drawn with other settings; the ones that differ are named.
    """
    check_settings(folder, settings)
    path = folder / SETTINGS_FILE
    if path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    _write(path, lambda part: part.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8"))


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """See that the images of a folder, if it holds any, were drawn with the same settings; writes nothing.

    Args:
        folder: Of the images; it need not exist.
        settings: JSON values: what the images depend on.

    Raises:
        ValueError: If they were drawn with other settings; the ones that differ are named.
    """
    path = folder / SETTINGS_FILE
    if not path.exists():
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    changed = sorted(_differences(found, json.loads(json.dumps(settings))))
    if changed:
        raise ValueError(
            f"{folder} holds images that were drawn with other settings: {', '.join(changed)}. Choose another "
            "--run_dir, or the old settings."
        )


def adapter_digests(config: Any) -> dict[str, str]:
    """SHA-256 of the trained adapters that a config names, so that other weights of the same name are other settings.

    Args:
        config: JSON values.

    Returns:
        By folder.
    """
    if isinstance(config, dict | list):
        parts = [adapter_digests(child) for child in (config.values() if isinstance(config, dict) else config)]
        return {folder: digest for part in parts for folder, digest in part.items()}
    paths = [path for name in PREFIXES if isinstance(config, str) and (path := Path(config, name)).is_file()]
    return {str(path.parent): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def rewritten_prompt(path: Path) -> str:
    """What the image model was told for an image of ``draw_images``; empty where that was the prompt itself."""
    with Image.open(path) as image:
        return str(image.info.get(REWRITTEN, ""))


def missing_images(prompts: Sequence[BenchmarkPrompt], folder: Path, *, seed: int) -> list[BenchmarkPrompt]:
    """The prompts that have no image yet.

    Args:
        prompts: All prompts.
        folder: Of the images.
        seed: Of the run.

    Returns:
        Those to draw, in order.

    Raises:
        ValueError: If an image that is there was drawn from another prompt or seed.
    """
    missing = []
    for prompt in prompts:
        path = folder / f"{prompt.name}.png"
        if not path.exists():
            missing.append(prompt)
            continue
        wanted = _metadata(prompt, seed)
        with Image.open(path) as image:
            found = {key: image.info.get(key) for key in wanted}
        if found != wanted:
            raise ValueError(f"{path} was drawn from {found}, expected {wanted}. Choose another --run_dir.")
    return missing


def draw_images(
    policy: Policy,
    prompts: Sequence[BenchmarkPrompt],
    folder: Path,
    *,
    seed: int,
    batch_size: int,
    advance: Callable[[int], object] = lambda number: None,
) -> None:
    """Draw prompts and save each image as a PNG file with prompt and seed in it; a file is there whole or not at all.

    Args:
        policy: Loaded, on its device.
        prompts: What ``missing_images`` gave.
        folder: Where ``NAME.png`` goes; it exists.
        seed: Of the run.
        batch_size: Images of one call.
        advance: Called with the number of images after each batch.

    Raises:
        ValueError: If the policy draws NaN, or cannot draw at all.
    """
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        seeds = [image_seed(seed, prompt) for prompt in batch]
        images, rewrites = policy.sample_rewritten([prompt.prompt for prompt in batch], seeds)
        if images.shape[-1] == 0:
            raise ValueError(f"{type(policy).__name__} draws no images; give it an image policy.")
        finite = images.isfinite().flatten(1).all(dim=1).tolist()
        pixels = to_uint8(images).cpu()
        for row, prompt in enumerate(batch):
            if not finite[row]:
                raise ValueError(f"the policy drew NaN for {prompt.name} ({prompt.prompt!r}).")
            told = {} if rewrites is None else {REWRITTEN: rewrites[row].text}
            save_image(pixels[row], folder / f"{prompt.name}.png", {**_metadata(prompt, seed), **told})
        advance(len(batch))


def save_image(image: Tensor, path: Path, metadata: Mapping[str, str]) -> None:
    """Write [3, H, W] bytes as a PNG file with text in it, whole or not at all."""
    info = PngImagePlugin.PngInfo()
    for key, value in {**metadata, "software": f"realgen {__version__}"}.items():
        info.add_itxt(key, value)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    _write(path, lambda part: picture.save(part, format="PNG", pnginfo=info))


def _metadata(prompt: BenchmarkPrompt, seed: int) -> dict[str, str]:
    return {"prompt": prompt.prompt, "seed": str(image_seed(seed, prompt))}


def _write(path: Path, write: Callable[[Path], object]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    write(part)
    os.replace(part, path)


def _differences(found: Any, now: Any, key: str = "") -> set[str]:
    """Dotted keys at which two JSON values differ."""
    if isinstance(found, dict) and isinstance(now, dict):
        names = found.keys() | now.keys()
        parts = (_differences(found.get(name), now.get(name), f"{key}.{name}".removeprefix(".")) for name in names)
        return set().union(*parts)
    return set() if found == now else {key}
