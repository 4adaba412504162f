"""What a detector that learns beside a policy is trained and measured on: generated images and photographs."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from realgen.checks import check_at_least
from realgen.data.detector_augment import DetectorAugment
from realgen.data.image_files import ImageFile, find_images, read_image
from realgen.data.order import prompt_indices, prompt_seed
from realgen.data.prompt_table import PromptTable
from realgen.functional.images import center_square, from_uint8, to_uint8


@dataclass(frozen=True)
class PairSettings:
    """Which images a detector learns from, and how they are changed.

    A pair is a photograph and a generated image of the same prompt. In one pass each photograph stands once, beside
    another sample of its prompt each time. Both get the same crop, size, blur and JPEG quality, so that none of these
    tells them apart. Prompts that are held out are never trained on, neither their photographs nor their samples.
    ValueError if a number is out of its range, or ``photographs`` are not there.
    """

    photographs: str | list[str] | None = None
    """Folders of images in place of the prompts' own photographs: pairs are then of different subjects, and what is
    held out are photographs and prompts each for itself. None: those of the prompts."""
    held_out: float = 0.2
    """Share of prompts and photographs that the detector is measured on, above 0 and below 1."""
    held_out_images: int = 64
    """Most images of each class to measure on: photographs, and the newest samples of held-out prompts."""
    image_size: int | None = None
    """Side in pixels to which the largest centred squares are brought; None takes that of the generated images."""
    replay: int = 1000
    """Pairs that all ranks keep for later updates, 6 * side^2 bytes each; an update brings one for each prompt."""
    per_step: int = 16
    """Most pairs of this iteration in a step, and most that are replayed."""
    augment: DetectorAugment = field(default_factory=DetectorAugment)
    """How training images are changed."""
    spoilt: float = 0.0
    """Share of the generated images that are an image of either class, blurred, gridded, flattened ... instead."""
    reconstructed: float = 0.0
    """Share of this iteration's generated images that are the pair's photograph after the policy's VAE instead."""

    def __post_init__(self) -> None:
        check_at_least(1, held_out_images=self.held_out_images, per_step=self.per_step, image_size=self.image_size)
        check_at_least(0, replay=self.replay)
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be above 0 and below 1, got {self.held_out}.")
        for name in ("spoilt", "reconstructed"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share, 0 to 1, got {getattr(self, name)}.")
        self.find_photographs()

    def find_photographs(self) -> list[ImageFile]:
        """List the images of the folders ``photographs``; ValueError if there are none."""
        return [] if self.photographs is None else find_images(self.photographs, argument="photographs")

    def holds_out(self, seed: int) -> bool:
        """Return whether a prompt or photograph with this seed is held out, whatever other ones there are."""
        return zlib.crc32(str(seed).encode()) < self.held_out * 2**32


class IterationPairs(NamedTuple):
    """What a rank trains on in an iteration, in 8 bits: n prompts that are not held out."""

    photographs: UInt8[Tensor, "n 3 size size"]
    samples: UInt8[Tensor, "n group 3 size size"]
    reconstructed: UInt8[Tensor, "n 3 size size"]
    """The photographs after the VAE; empty where they are not asked for."""


class Photographs:
    """Photographs of the settings' folders or the prompts, by number; ValueError unless some, not all, are held out."""

    def __init__(self, settings: PairSettings, table: PromptTable | None = None) -> None:
        found, prompts = settings.find_photographs(), cast("PromptTable", table)
        rows = [] if table is None else map(table.__getitem__, range(len(table)))
        seeds = {"prompts": [prompt_seed(sample.key, sample.prompt) for sample in rows]}
        if found:
            seeds["photographs"] = [zlib.crc32(file.name.encode()) for file in found]
        for what, each in seeds.items():
            held = sum(map(settings.holds_out, each))
            if each and not 0 < held < len(each):
                raise ValueError(
                    f"pairs.held_out={settings.held_out} of {len(each)} {what} leaves {len(each) - held} to train on "
                    f"and {held} to measure on; there must be some of both."
                )
        self._file: Callable[[int], Any] = lambda row: found[row].path if found else prompts[row].real_image
        own = [settings.holds_out(seed) for seed in seeds["photographs" if found else "prompts"]]
        self.training, self.held_out = ([row for row, held in enumerate(own) if held is each] for each in (False, True))

    def draw(self, number: int, size: int, *, iteration: int, seed: int, rank: int, world_size: int) -> Tensor:
        """Return ``number`` photographs to train on in an iteration [n, 3, S, S]; all have their turn; ValueError."""
        if len(self.training) < number * world_size:
            raise ValueError(f"photographs: {number * world_size} are taken at once, there are {len(self.training)}.")
        places = {"per_rank": number, "seed": seed, "rank": rank, "world_size": world_size}
        rows = prompt_indices(iteration, num_prompts=len(self.training), **places)
        return self.read([self.training[row] for row in rows], size)

    def read(self, rows: Sequence[int], size: int) -> UInt8[Tensor, "rows 3 size size"]:
        """Read photographs of any size by number."""
        found = [as_square(read_image(self._file(row))[None], size) for row in rows]
        return torch.cat(found) if found else torch.empty(0, 3, size, size, dtype=torch.uint8)


def as_square(images: Float[Tensor, "rows 3 height width"], size: int) -> UInt8[Tensor, "rows 3 size size"]:
    """Bring the largest centred squares to a size, in 8 bits, on the CPU; NaN becomes black."""
    square = images if images.shape[2:] == (size, size) else center_square(images, size)
    return to_uint8(square).cpu()


def replaced(
    kept: UInt8[Tensor, "kept 2 3 size size"],
    new: UInt8[Tensor, "new 2 3 size size"],
    most: int,
    generator: torch.Generator,
) -> UInt8[Tensor, "pairs 2 3 size size"]:
    """Add pairs (photograph, sample) to earlier ones; where ``most`` are kept, each takes the place of a random one."""
    room = most - len(kept)
    kept = torch.cat([kept, new[:room]])
    for pair in new[room:] if most else ():
        kept[int(torch.randint(most, (), generator=generator))] = pair
    return kept


def training_steps(
    current: IterationPairs,
    earlier: UInt8[Tensor, "pairs 2 3 size size"],
    number: int,
    settings: PairSettings,
    generator: torch.Generator,
) -> Iterator[tuple[Float[Tensor, "rows 3 size size"], Int[Tensor, " rows"], int]]:
    """Yield a pass's ``number`` of steps: images, photographs first, labels (0 = real), and the pairs replayed.

    Each photograph stands once in a pass, beside a random sample of its prompt, or its own reconstruction. A step may
    be empty where other ranks have more pairs.
    """
    size, count = settings.per_step, len(current.photographs)
    columns = torch.randint(current.samples.shape[1], (count,), generator=generator)
    generated = current.samples[torch.arange(count), columns]
    if len(current.reconstructed):
        chosen = torch.rand(count, generator=generator) < settings.reconstructed
        generated = torch.where(chosen.view(-1, 1, 1, 1), current.reconstructed, generated)
    pairs = torch.stack([current.photographs, generated], dim=1)[torch.randperm(count, generator=generator)]
    order = torch.randperm(len(earlier), generator=generator)
    for first in range(0, number * size, size):
        old = earlier[order[first : first + size]]
        shown = [*pairs[first : first + size], *old]
        seeds = torch.randint(2**62, (len(shown),), generator=generator).tolist()
        examples = [_example(pair[0], pair[1], settings, seed) for pair, seed in zip(shown, seeds, strict=True)]
        images = [image for side in zip(*examples, strict=True) for image in side]  # all photographs, then the rest
        stacked = torch.stack(images) if images else torch.empty(0, *pairs.shape[2:])
        yield stacked, torch.arange(2).repeat_interleave(len(shown)), len(old)


def _example(photograph: Tensor, generated: Tensor, settings: PairSettings, seed: int) -> tuple[Tensor, Tensor]:
    """Change both in the same way, and maybe spoil the second."""
    size, change = photograph.shape[-1], settings.augment
    first, second, choice = (torch.Generator().manual_seed(each) for each in (seed, seed, seed + 1))
    real, fake = from_uint8(photograph), from_uint8(generated)
    spoilt, other = torch.rand(2, generator=choice).tolist()
    if spoilt < settings.spoilt:
        return change(real, size, first), change.cheat(real if other < 0.5 else fake, size, second)
    return change(real, size, first), change(fake, size, second)
