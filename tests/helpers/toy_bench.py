"""A benchmark that can be computed by hand: plain grey images, and a detector that reads their brightness."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from realgen.detectors import Detector
from realgen.policies.base import Policy
from realgen.rewards import Reward
from realgen.types import Rewrite, Rollout, Samples

PROMPTS = ["a cat", "a dog", "a house", "a tower"]


class Brightness(Detector):
    """``p_fake`` = mean of all pixels."""

    def build(self) -> nn.Module:
        return nn.Linear(1, 1)

    def p_fake(self, network: nn.Module, images: Tensor) -> Tensor:
        return images.mean(dim=(1, 2, 3))


class Letters(Reward):
    """Number of the prompt's letters, spaces too; NaN where it names a dog."""

    def score(self, samples: Samples) -> Tensor:
        return torch.tensor([float("nan") if "dog" in prompt else float(len(prompt)) for prompt in samples.row_prompts])


class GreyPolicy(Policy):
    """Draws one grey, told by the seed; ``drawn`` counts over all policies, and ``stop_after`` ends the process."""

    drawn = 0

    def __init__(self, size: int = 8, stop_after: int | None = None, fault: str = "", rewrites: bool = False) -> None:
        super().__init__()
        self.size, self.stop_after, self.fault, self.rewrites = size, stop_after, fault, rewrites

    def load(self) -> None:
        self.weight = nn.Parameter(torch.zeros(1))

    def rollout_chunks(self, prompts: Sequence[str], group_size: int, **how: Any) -> Any:
        raise AssertionError("the benchmark only samples")

    def score(self, rollout: Rollout, rows: Tensor) -> Any:
        raise AssertionError("the benchmark only samples")

    def reference(self) -> Any:
        raise AssertionError("the benchmark only samples")

    def export(self, directory: Path) -> Path:
        raise AssertionError("the benchmark only samples")

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, progress: Any = None) -> Tensor:
        if self.stop_after is not None and GreyPolicy.drawn >= self.stop_after:
            raise KeyboardInterrupt
        GreyPolicy.drawn += len(prompts)
        if self.fault == "cannot draw":
            return torch.zeros(len(prompts), 3, 0, 0)
        images = torch.stack([grey(seed, self.size) for seed in seeds])
        return images * torch.nan if self.fault == "nan" else images

    def sample_rewritten(
        self, prompts: Sequence[str], seeds: Sequence[int], *, progress: Any = None
    ) -> tuple[Tensor, list[Rewrite] | None]:
        texts = [Rewrite(f"{p}, film grain", p, formatted=True, truncated=False, skipped=False) for p in prompts]
        return self.sample(prompts, seeds), texts if self.rewrites else None


def grey(seed: int, size: int) -> Tensor:
    return torch.full((3, size, size), (seed % 256) / 255)


def write_grey(path: Path, level: int, *, size: tuple[int, int] = (8, 8), **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, level)).save(path, **how)
    return path


def write_set(folder: Path, levels: Sequence[int], suffix: str = ".png") -> Path:
    """``00000.png`` and so on, one grey each."""
    for number, level in enumerate(levels):
        write_grey(folder / f"{number:05d}{suffix}", level)
    return folder


def write_bench(folder: Path, levels: Sequence[int] = (10, 20, 30, 40)) -> Path:
    """Four prompts of two categories with real images, in the published layout."""
    write_set(folder / "real-img-benchmark", levels)
    (folder / "prompt.txt").write_text("\n".join(PROMPTS) + "\n")
    (folder / "long_prompts.txt").write_text("\n".join(f"{prompt}, film grain" for prompt in PROMPTS))
    (folder / "categories.json").write_text(json.dumps({"animals": [0, 1], "buildings": [2, 3]}))
    return folder
