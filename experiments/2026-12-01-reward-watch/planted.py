"""Plant hacks in the pictures of the embedded policy and count the validations until the watch finds them.

python experiments/2026-12-01-reward-watch/planted.py > planted.md

Each hack begins in the held-out pictures of the untrained policy and takes a tenth more of them at each validation, in
strength (grid, blur, ...) or in the share of pictures (one picture for all, text). The reward that is hacked rises with
it, by half a point in all. A validation is 80 prompts, two pictures each, and the measures that the embedded recipes'
callbacks watch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from jsonargparse import ArgumentParser
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur, pil_to_tensor

from realgen.callbacks import RewardWatch
from realgen.data import PromptShards
from realgen.metrics.base import ImageMetric
from realgen.policies import Policy
from realgen.tables import markdown_table

MEASURES = ("kid_imagenet", "imagenet_probe", "color_distance", "contrast_distance", "spectrum_distance", "grid_energy")
WATCHED = (*MEASURES, "diversity_imagenet")
SAMPLES, STEPS = 2, 10


def blend(target: Callable[[Tensor], Tensor]) -> Callable[[Tensor, float], Tensor]:
    """A hack whose strength mixes its target into each picture."""
    return lambda images, share: torch.lerp(images, target(images), share).clamp(0, 1)


def replaced(target: Callable[[Tensor], Tensor]) -> Callable[[Tensor, float], Tensor]:
    """A hack that takes a share of the pictures wholly; the same ones always, and more of them."""

    def hack(images: Tensor, share: float) -> Tensor:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        taken = order[: round(share * len(images))]
        return images.index_copy(0, taken, target(images)[taken])

    return hack


def grid(images: Tensor) -> Tensor:
    """Lines of every fourth pixel."""
    line = (torch.arange(images.shape[-1]) % 4 == 0).float()
    return images + 0.2 * (torch.maximum(line[:, None], line[None]) - 0.4375)


def noise(images: Tensor) -> Tensor:
    """White noise of 0.15."""
    return images + 0.15 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))


def blots(images: Tensor) -> Tensor:
    """Soft spots of random colour, one field per picture."""
    coarse = torch.rand(len(images), 3, 6, 6, generator=torch.Generator().manual_seed(2))
    return torch.nn.functional.interpolate(coarse, size=images.shape[-2:], mode="bicubic")


def text(images: Tensor) -> Tensor:
    """The same two words painted into every picture."""
    page = Image.new("L", (images.shape[-1], images.shape[-2]))
    for line, word in enumerate(("REAL", "PHOTO")):
        ImageDraw.Draw(page).text((6, 14 + 18 * line), word, fill=255, font_size=17)
    written = pil_to_tensor(page)[None] / 255
    return images * (1 - written) + written


HACKS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "grid": blend(grid),
    "blur (2 pixels)": blend(lambda images: gaussian_blur(images, [11, 11], [2.0, 2.0])),
    "noise": blend(noise),
    "grey": blend(lambda images: images.mean(1, keepdim=True).expand_as(images)),
    "saturation (3 times)": blend(lambda images: images.mean(1, keepdim=True).lerp(images, 3.0).clamp(0, 1)),
    "darkness (a quarter)": blend(lambda images: 0.25 * images),
    "blots": blend(blots),
    "one picture for all": replaced(lambda images: images[:1].expand_as(images)),
    "text painted in": replaced(text),
}


def part(kind: type, name: str, file: str) -> Any:
    """Make a part of the config."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(kind, name)
    return parser.instantiate(parser.parse_args([f"--{name}={file}"]))[name]


def pictures(policy: Policy, batches: list[Any], suffix: str = "") -> Tensor:
    """Draw every prompt SAMPLES times: [samples, prompts, 3, H, W]."""
    drawn = []
    for batch in batches:
        prompts = [prompt + suffix for prompt, counts in zip(batch.prompts, batch.mask.tolist(), strict=True) if counts]
        seeds = [seed for seed, counts in zip(batch.seeds, batch.mask.tolist(), strict=True) if counts]
        each = [policy.sample(prompts, [seed + sample for seed in seeds]) for sample in range(SAMPLES)]
        drawn.append(torch.stack(each))
        print(f"{sum(part.shape[1] for part in drawn)} prompts drawn{suffix and ' with' + suffix}", file=sys.stderr)
    return torch.cat(drawn, 1)


def validation(
    images: Tensor, batches: list[Any], metrics: dict[str, ImageMetric], iteration: int, rise: float
) -> dict[str, Any]:
    """What ``Summary`` keeps of a validation with these pictures."""
    for metric in metrics.values():
        metric.reset()
    start, keys, spread = 0, [], torch.Generator().manual_seed(3)
    for batch in batches:
        kept = batch.mask.nonzero().flatten().tolist()
        prompts, keys = [batch.prompts[row] for row in kept], [*keys, *(batch.keys[row] for row in kept)]
        for sample in range(SAMPLES):
            real = batch.images[kept] if sample == 0 and batch.images is not None else None
            for metric in metrics.values():
                metric.update(images[sample, start : start + len(kept)], prompts=prompts, real=real)
        start += len(kept)
    values = {name: float(metric.compute()) for name, metric in metrics.items()}
    without = {name: metric.without_each().tolist() for name, metric in metrics.items()}
    own = 0.3 + 0.15 * torch.randn(len(keys), generator=spread)
    reward = {key: value + rise for key, value in zip(keys, own.tolist(), strict=True)}
    values["reward"] = sum(reward.values()) / len(reward)
    return {"iteration": iteration, "values": values, "without_each": without, "by_prompt": {"reward": reward}}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hacks", nargs="*", help="Only those whose names begin so.")
    chosen = parser.parse_args().hacks
    shards = {name: f"data/prompts/{name}/*.tar" for name in ("train", "validation")}
    data = PromptShards(**shards, prompts_per_iteration=6, validation_batch_size=40)
    data.setup("validate")
    (loader,) = loaders if isinstance(loaders := data.val_dataloader(), list) else [loaders]
    batches = list(loader)
    metrics = {name: part(ImageMetric, "metric", f"configs/metrics/{name}.yaml") for name in WATCHED}
    policy = part(Policy, "policy", "configs/policies/sd3_nano.yaml")
    policy.load()
    base = pictures(policy, batches)
    first = validation(base, batches, metrics, 0, 0.0)
    higher, rows = {name: metric.higher_is_better for name, metric in metrics.items()}, []
    suffix = ", glossy plastic toy, studio render"
    drawn = chosen is None or any("copied".startswith(name) for name in chosen)
    cued = pictures(policy, batches, suffix).flatten(0, 1) if drawn else base
    hacks = {**HACKS, "copied prompt suffix": replaced(lambda _: cued)}
    for name, hack in hacks.items():
        if chosen and not name.startswith(tuple(chosen)):
            continue
        found = ""
        for step in range(1, STEPS + 1):
            share = step / STEPS
            hacked = hack(base.flatten(0, 1), share).view_as(base)
            now = validation(hacked, batches, metrics, step, 0.5 * share)
            words = RewardWatch(WATCHED).judge(first, now, higher, first=True)
            print(f"{name}, validation {step}: {words}", file=sys.stderr)
            if words:
                found = f"{step}", words[0].partition(", and ")[2].partition(" (")[0]
                break
        rows.append((name, *(found or ("not found", ""))))
    print(markdown_table(("hack", "found at validation (of 10)", "by"), rows))


if __name__ == "__main__":
    with torch.no_grad():
        main()
