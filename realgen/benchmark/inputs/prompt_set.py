"""The prompts of a benchmark with their real images and categories, read from disk.

The layout is the published RealBench's, as it lies there:

    real-img-benchmark/00000.jpg ...    real images; the i-th by name (2 before 10) belongs to the i-th prompt
    prompt.txt                          one prompt per line, the short ones
    long_prompts.txt                    optional: the long ones, line by line for the same real images
    categories.json                     optional: {"animals": [0, 164], ...} first and last line of each category
"""

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from realgen.benchmark.inputs.image_sets import BenchmarkPrompt, images_by_name, listed
from realgen.data.prompt_text import checked_text, read_lines
from realgen.given_files import parse_json

Length = Literal["short", "long"]
TEXT_FILES: dict[str, tuple[str, ...]] = {
    "short": (
        "prompt.txt",
        "short_prompts.txt",
        "benchmark/prompt.txt",
        "eval/model-eval/short-img/banchmark/short_prompts.txt",
    ),
    "long": ("long_prompts.txt", "eval/model-eval/long-img/banchmark/long_prompts.txt"),
}
"""Where a folder may have its prompts; the first that exists counts."""
REAL_FOLDERS = ("real-img-benchmark", "benchmark/real-img-benchmark", "real")
"""Where a folder may have its real images."""
PUBLISHED = {
    "animals": (0, 164),
    "buildings": (165, 279),
    "dishes": (280, 323),
    "indoor_view": (324, 421),
    "outdoor_view": (422, 552),
    "people": (553, 933),
    "plants": (934, 1040),
}
"""First and last line of each category of the published RealBench."""


def read_prompt_set(
    prompts: Path, *, real: Path | None = None, categories: Path | None = None, length: Length | None = None
) -> list[BenchmarkPrompt]:
    """Read prompts, and pair them with real images and categories.

    Args:
        prompts: A folder in the layout above, or the root of the published code; a text file with one prompt per line;
            or a JSON file: a list of texts, or an object of file names with ``{"prompt": text, "category": name}``
            (``types`` and ``typea`` are read as ``category``).
        real: Folder of real images; None looks for it in the folder ``prompts``.
        categories: JSON file: an object of first and last line by category, or of categories by file name. None looks
            for it in the folder ``prompts``, and knows the published set by its names and number.
        length: Of a folder, whether the short or the long prompts; None: short.

    Raises:
        ValueError: If a file is missing or malformed, the numbers of prompts and real images differ, or a prompt has no
            category or two.
    """
    if not prompts.exists():
        raise ValueError(f"prompts must be a file or a folder, {str(prompts)!r} does not exist.")
    if prompts.is_dir():
        folder, wanted = prompts, TEXT_FILES[length or "short"]
        there = [folder / name for name in wanted if (folder / name).is_file()]
        if not there:
            what = f"{length or 'short'} prompts; expected {' or '.join(wanted)}"
            raise ValueError(f"prompts: the folder {str(folder)!r} has no {what}.")
        prompts = there[0]
        real = real or next((folder / name for name in REAL_FOLDERS if (folder / name).is_dir()), None)
        if categories is None and (folder / "categories.json").is_file():
            categories = folder / "categories.json"
    elif length is not None:
        raise ValueError(f"length chooses among the prompts of a folder; prompts is the file {str(prompts)!r}.")
    texts, names, said = _read_prompts(prompts)
    real_images = None if real is None else images_by_name(real, argument="real")
    if real_images is not None:
        names = _pair(texts, names, real_images, prompts, real)
    names = names or [f"{number:05d}" for number in range(len(texts))]
    if categories is not None:
        said = _read_categories(categories, names)
    elif said is None and len(names) == 1041 and names == [f"{number:05d}" for number in range(1041)]:
        said = _by_ranges(PUBLISHED, 1041, "the published RealBench")
    found = (real_images or {}).get
    return [
        BenchmarkPrompt(number, name, text, said[number] if said else "", found(name))
        for number, (name, text) in enumerate(zip(names, texts, strict=True))
    ]


def choose_evenly(prompts: Sequence[BenchmarkPrompt], number: int | None) -> list[BenchmarkPrompt]:
    """Choose prompts evenly, so that all categories are there; None: all. ValueError for fewer than 1, or more."""
    if number is None:
        return list(prompts)
    if not 1 <= number <= len(prompts):
        raise ValueError(f"num_prompts must be 1 to {len(prompts)}, the prompts that there are, got {number}.")
    return [prompts[place * len(prompts) // number] for place in range(number)]


def categories_of(prompts: Sequence[BenchmarkPrompt]) -> list[str]:
    """Return the names of the categories, in the order in which they come."""
    return list(dict.fromkeys(prompt.category for prompt in prompts if prompt.category))


def category_numbers(prompts: Sequence[BenchmarkPrompt], categories: Sequence[str]) -> Int[Tensor, " prompts"]:
    """Return each prompt's place among the categories; -1 where it has none."""
    return torch.tensor([categories.index(prompt.category) if prompt.category else -1 for prompt in prompts])


def _read_prompts(path: Path) -> tuple[list[str], list[str] | None, list[str] | None]:
    """Read texts; and names and categories where the file has them."""
    if path.suffix.lower() != ".json":
        lines = read_lines(path)
        while lines and not lines[-1]:
            lines.pop()
        return _checked(lines, path), None, None
    found = _read_json(path, "prompts")
    if isinstance(found, list) and all(isinstance(text, str) for text in found):
        return _checked(found, path), None, None
    if isinstance(found, dict) and all(isinstance(entry, dict) and "prompt" in entry for entry in found.values()):
        names = [Path(name).stem for name in found]
        twice = [name for name, number in Counter(names).items() if number > 1]
        if twice:
            raise ValueError(f"prompts: {path}: {listed(twice)} is there more than once.")
        said = [next((str(e[key]) for key in ("category", "types", "typea") if key in e), "") for e in found.values()]
        texts = _checked([str(entry["prompt"]) for entry in found.values()], path)
        if any(said) and not all(said):
            raise ValueError(f"prompts: {path}: {names[said.index('')]} has no category, others have.")
        return texts, names, said if any(said) else None
    raise ValueError(
        f'prompts: {path} must hold a list of texts, or {{"NAME.jpg": {{"prompt": TEXT}}}} for each image.'
    )


def _checked(texts: list[str], path: Path) -> list[str]:
    if not texts:
        raise ValueError(f"prompts: {path} holds no prompt.")
    try:
        texts = [checked_text(text) for text in texts]
    except ValueError as error:
        raise ValueError(f"prompts: {path}: {error}.") from error
    if "" in texts:
        raise ValueError(
            f"prompts: line {texts.index('') + 1} of {path} is empty, and lines count: one per real image."
        )
    return texts


def _pair(
    texts: Sequence[str], names: list[str] | None, real_images: Mapping[str, Path], path: Path, real: Path | None
) -> list[str]:
    """Name the prompts: given names must be the real images'; else the i-th prompt has the i-th real image."""
    if names is None:
        if len(texts) != len(real_images):
            raise ValueError(
                f"prompts and real must be as many: {path} has {len(texts)} lines, {real} {len(real_images)} images."
            )

        def numbers_by_value(name: str) -> tuple[list[tuple[int, str]], str]:  # 2.jpg before 10.jpg, as the lines are
            return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)], name

        return sorted(real_images, key=numbers_by_value)
    missing = [name for name in names if name not in real_images]
    if missing:
        raise ValueError(f"real: {real} has no real image of {listed(missing)}, which {path} names.")
    return names


def _read_categories(path: Path, names: Sequence[str]) -> list[str]:
    found = _read_json(path, "categories")
    if not isinstance(found, dict):
        raise ValueError(f"categories: {path} must hold an object, got {type(found).__name__}.")
    if all(isinstance(value, list) for value in found.values()):
        return _by_ranges(found, len(names), str(path))
    by_name = {Path(name).stem: value for name, value in found.items()}
    missing = [name for name in names if not isinstance(by_name.get(name), str)]
    if missing:
        raise ValueError(f"categories: {path} gives no category for {listed(missing)}.")
    return [by_name[name] for name in names]


def _by_ranges(ranges: Mapping[str, Any], number: int, where: str) -> list[str]:
    """Return the category of each line; raise ValueError if the ranges do not hold every line just once."""
    for name, pair in ranges.items():
        if len(pair) != 2 or not all(isinstance(end, int) for end in pair) or pair[0] > pair[1]:
            raise ValueError(f"categories: {where}: {name} must be [first line, last line] from 0, got {list(pair)}.")
    ordered = sorted((tuple(pair), name) for name, pair in ranges.items())
    ends = [-1, *(pair[1] for pair, _ in ordered)]
    starts = [*(pair[0] for pair, _ in ordered), number]
    for end, start in zip(ends, starts, strict=True):
        if start != end + 1:
            raise ValueError(
                f"categories: {where}: the ranges must hold each of the {number} lines once; after line {end} comes "
                f"{start}."
            )
    return list(itertools.chain.from_iterable([name] * (last - first + 1) for (first, last), name in ordered))


def _read_json(path: Path, argument: str) -> Any:
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{argument}: {path} cannot be read as JSON ({error}).") from error
