"""The RealBench that is shipped: in the published layout, small, and made by the code that is beside it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.nano.captions import PHOTO_CUES, split_prompts
from experiments.nano.photographs import SUBJECTS
from experiments.nano.realbench import CATEGORIES, main
from realgen.benchmark.inputs.prompt_set import categories_of, read_prompt_set


def test_it_is_the_published_layout(nano: Path) -> None:
    folder = nano.parent / "realbench"
    found = read_prompt_set(folder)
    assert len(found) == 80
    assert categories_of(found) == list(CATEGORIES)
    assert sorted(prompt.prompt for prompt in found) == sorted(prompt for _, prompt in split_prompts()[1])
    for short, long in zip(found, read_prompt_set(folder, length="long"), strict=True):
        start, *cues = long.prompt.split(", ")
        assert start == short.prompt
        assert len(set(cues) & set(PHOTO_CUES)) == 3
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 2_000_000


def test_every_subject_is_in_one_category() -> None:
    names = Counter(name for names in CATEGORIES.values() for name in names)
    assert names == Counter(subject.names[0] for subject in SUBJECTS)


def test_photographs_are_no_others_of_the_repository(nano: Path) -> None:
    """Nor twice the same."""
    pixels = {np.asarray(Image.open(path)).tobytes() for path in (nano.parent / "realbench").rglob("*.jpg")}
    assert len(pixels) == 80


def test_the_code_makes_what_is_shipped(nano: Path, tmp_path: Path) -> None:
    main(["--output", str(tmp_path / "bench")])
    shipped = nano.parent / "realbench"
    names = sorted(path.relative_to(shipped) for path in shipped.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(tmp_path / "bench") for path in (tmp_path / "bench").rglob("*.*"))
    for name in names:
        if name.suffix == ".jpg":  # another libjpeg gives other bytes, not another picture
            made, there = (np.asarray(Image.open(root / name)).astype(int) for root in (tmp_path / "bench", shipped))
            assert np.abs(made - there).mean() < 1
        else:
            assert (tmp_path / "bench" / name).read_bytes() == (shipped / name).read_bytes()
