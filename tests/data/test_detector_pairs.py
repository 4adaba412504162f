"""Pairs for a detector that learns: what is held out, what stands beside what, and what is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from realgen.data.detector_augment import DetectorAugment
from realgen.data.detector_pairs import IterationPairs, PairSettings, Photographs, as_square, replaced, training_steps
from realgen.data.prompt_table import PromptTable
from realgen.data.shards import write_shards
from tests.helpers.toy_detector import PLAIN, fill

NONE = torch.empty(0, 3, 4, 4, dtype=torch.uint8)


def level(*levels: int) -> torch.Tensor:
    """One grey image for each level."""
    return torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).clone()


PAIRS = torch.stack([level(201, 202, 203), level(251, 252, 253)], dim=1)


def iteration(prompts: list[int], reconstructed: torch.Tensor = NONE) -> IterationPairs:
    """Photograph of prompt p is 10 p bright, its three samples 100 + 10 p + g."""
    samples = torch.stack([level(*(100 + 10 * p + g for g in range(3))) for p in prompts])
    return IterationPairs(level(*(10 * p for p in prompts)), samples, reconstructed)


def steps(current: IterationPairs, earlier: torch.Tensor, number: int = 1, **settings: Any) -> list[list[tuple]]:
    """The levels of each step's pairs."""
    found, generator = [], torch.Generator().manual_seed(1)
    for images, labels, _ in training_steps(
        current, earlier, number, PairSettings(augment=PLAIN, **settings), generator
    ):
        levels = (images[:, 0, 0, 0] * 255).round().long().tolist()
        half = len(levels) // 2
        assert labels.tolist() == [0] * half + [1] * half
        found.append(list(zip(levels[:half], levels[half:], strict=True)))
    return found


def test_a_pass_shows_each_photograph_once_beside_a_sample_of_its_prompt() -> None:
    seen = steps(iteration([0, 2, 3]), PAIRS[:0], number=2, per_step=2)
    assert [len(step) for step in seen] == [2, 1]
    real, fake = zip(*seen[0], *seen[1], strict=True)
    assert sorted(real) == [0, 20, 30]
    assert all((g - 100) // 10 == r // 10 for r, g in zip(real, fake, strict=True))


def test_earlier_pairs_come_again_and_a_rank_with_fewer_pairs_has_empty_steps() -> None:
    seen = steps(iteration([0, 1]), PAIRS, number=3, per_step=2)
    assert [len(step) for step in seen] == [4, 1, 0]
    assert sorted(pair for step in seen for pair in step if pair[0] > 200) == [(201, 251), (202, 252), (203, 253)]


def test_reconstructed_and_spoilt_photographs_are_generated() -> None:
    current = iteration([0, 1], level(200, 201))
    assert sorted(steps(current, PAIRS[:0], reconstructed=1.0)[0]) == [(0, 200), (10, 201)]
    grey = level(50, 60).repeat(1, 1, 4, 4)
    current, settings = IterationPairs(grey, grey[:, None], grey[:0]), PairSettings(augment=PLAIN, spoilt=1.0)
    none, generator = torch.empty(0, 2, 3, 16, 16, dtype=torch.uint8), torch.Generator().manual_seed(2)
    ((images, _, _),) = training_steps(current, none, 1, settings, generator)
    clean, spoilt = (side.flatten(1).std(1) for side in images.chunk(2))
    assert float(clean.max()) == 0
    assert float(spoilt.max()) > 0


def test_both_of_a_pair_are_changed_alike() -> None:
    """Equal images stay equal through crop, flip, blur and JPEG."""
    noise = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    settings = PairSettings(augment=DetectorAugment(jpeg=1.0, blur=1.0, blur_sigma=(0.1, 0.5)))
    none = torch.empty(0, 2, 3, 16, 16, dtype=torch.uint8)
    current = IterationPairs(noise, noise[:, None], noise[:0])
    ((images, _, _),) = training_steps(current, none, 1, settings, torch.Generator().manual_seed(0))
    assert torch.equal(*images.chunk(2))
    assert not torch.equal(images[0], images[1])


def test_the_memory_is_bounded_and_a_new_pair_takes_a_random_place() -> None:
    generator = torch.Generator().manual_seed(0)
    for most in (3, 0):
        kept = PAIRS[:0]
        for number in range(50):
            kept = replaced(kept, torch.full((1, 2, 3, 4, 4), number, dtype=torch.uint8), most, generator)
            assert len(kept) == min(number + 1, most)
        assert not most or set(kept[:, 0, 0, 0, 0].tolist()) != {47, 48, 49}


def test_photographs_of_folders_and_prompts(tmp_path: Path) -> None:
    settings = PairSettings(photographs=fill(tmp_path / "real", (160, 100, 60), 20), held_out=0.3)
    samples = ({"prompt": f"a {n}", "image": Image.new("RGB", (16, 8 + n), (n, 0, 0))} for n in range(20))
    (shard,) = write_shards(samples, tmp_path / "shards")
    table = PromptTable([str(shard)], real_images=True, image_size=8)
    for found in (Photographs(settings), Photographs(replace(settings, photographs=None), table)):
        assert not set(found.training) & set(found.held_out)
        assert found.read(found.held_out, 8).shape == (len(found.held_out), 3, 8, 8)
        place = {"seed": 0, "rank": 0, "world_size": 1}
        drawn = found.draw(len(found.training), 8, iteration=0, **place)
        assert len(drawn[:, 0, 0, 0].unique()) == len(found.training)  # each once
        with pytest.raises(ValueError, match="are taken at once"):
            found.draw(20, 8, iteration=0, **place)


def test_what_cannot_be_is_named(tmp_path: Path) -> None:
    for given, message in (
        ({"held_out": 0.0}, "held_out must be above 0 and below 1"),
        ({"spoilt": 1.5}, "spoilt must be a share"),
        ({"per_step": 0}, "per_step must be at least 1"),
        ({"photographs": str(tmp_path / "none")}, "photographs must be a folder"),
    ):
        with pytest.raises(ValueError, match=message):
            PairSettings(**given)
    folder = fill(tmp_path / "real", (160, 100, 60), 3)
    with pytest.raises(ValueError, match="leaves 0 to train on and 3 to measure on"):
        Photographs(PairSettings(photographs=folder, held_out=0.9999))
    (shard,) = write_shards(({"prompt": f"a {n}"} for n in range(4)), tmp_path / "shards")
    settings = PairSettings(photographs=fill(tmp_path / "more", (160, 100, 60), 12), held_out=0.1)
    message = r"pairs.held_out=0.1 of 4 prompts leaves 4 to train on and 0 to measure on"
    assert len(Photographs(settings).held_out) == 2
    with pytest.raises(ValueError, match=message):  # the detector would never be trained
        Photographs(settings, PromptTable([str(shard)]))


def test_squares_are_cut_from_the_middle() -> None:
    images = torch.zeros(1, 3, 4, 8)
    images[..., 2:6] = 1
    assert as_square(images, 4).float().mean() == 255
