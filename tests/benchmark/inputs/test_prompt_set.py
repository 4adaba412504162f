"""Prompt sets as they lie on disk, good ones and broken ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from realgen.benchmark.inputs.prompt_set import PUBLISHED, categories_of, choose_evenly, read_prompt_set
from tests.helpers.toy_bench import PROMPTS, write_bench, write_grey, write_set


def test_published_layout(tmp_path: Path) -> None:
    found = read_prompt_set(write_bench(tmp_path))
    assert [prompt.prompt for prompt in found] == PROMPTS
    assert [prompt.name for prompt in found] == ["00000", "00001", "00002", "00003"]
    assert [prompt.category for prompt in found] == ["animals", "animals", "buildings", "buildings"]
    assert found[2].real_image == tmp_path / "real-img-benchmark" / "00002.png"
    assert categories_of(found) == ["animals", "buildings"]
    assert read_prompt_set(tmp_path, length="long")[3].prompt == "a tower, film grain"


def test_root_of_the_published_code(tmp_path: Path) -> None:
    write_bench(tmp_path / "benchmark")
    long = tmp_path / "eval/model-eval/long-img/banchmark"
    long.mkdir(parents=True)
    (tmp_path / "benchmark/long_prompts.txt").rename(long / "long_prompts.txt")
    assert read_prompt_set(tmp_path)[0].prompt == "a cat"
    found = read_prompt_set(tmp_path, length="long")
    assert found[0].prompt == "a cat, film grain"
    assert found[0].real_image == tmp_path / "benchmark/real-img-benchmark/00000.png"


def test_the_published_set_is_known_by_names_and_number(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("\n".join(f"prompt {i}" for i in range(1041)))
    folder = tmp_path / "real-img-benchmark"
    first = write_grey(folder / "00000.jpg", 0)
    for number in range(1, 1041):
        (folder / f"{number:05d}.jpg").hardlink_to(first)
    found = read_prompt_set(tmp_path)
    counts = {name: sum(prompt.category == name for prompt in found) for name in PUBLISHED}
    assert counts == {
        "animals": 165, "buildings": 115, "dishes": 44, "indoor_view": 98, "outdoor_view": 131, "people": 381,
        "plants": 107,
    }  # fmt: skip
    assert (found[279].category, found[280].category) == ("buildings", "dishes")
    (folder / "01040.jpg").rename(folder / "other.jpg")
    assert not categories_of(read_prompt_set(tmp_path))


def test_text_file_with_a_folder_of_real_images_of_any_names(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\ufeffa cat\r\na dog\n\n", encoding="utf-8")
    for name in ("z.PNG", "b.webp"):
        write_grey(tmp_path / "photos" / name, 0)
    found = read_prompt_set(tmp_path / "prompts.txt", real=tmp_path / "photos")
    assert [(prompt.name, prompt.prompt) for prompt in found] == [("b", "a cat"), ("z", "a dog")]


def test_only_an_end_of_line_ends_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("a cat\u2028on a mat\r\na\x0btower\x85\nthe sea\n\n".encode())
    found = [prompt.prompt for prompt in read_prompt_set(path)]
    assert found == ["a cat\u2028on a mat", "a\x0btower", "the sea"]


def test_real_images_without_leading_zeros_are_counted_not_spelled(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(f"prompt {number}" for number in range(1, 13)), encoding="utf-8")
    for number in range(1, 13):
        write_grey(tmp_path / "photos" / f"{number}.jpg", 0)
    found = read_prompt_set(tmp_path / "prompts.txt", real=tmp_path / "photos")
    assert [(prompt.name, prompt.prompt) for prompt in found] == [(str(i), f"prompt {i}") for i in range(1, 13)]


def test_json_names_its_images_and_categories(tmp_path: Path) -> None:
    entries = {"dog_7.jpg": {"prompt": "a dog", "typea": "animals"}, "hut.jpg": {"prompt": "a hut", "types": "houses"}}
    (tmp_path / "output.json").write_text(json.dumps(entries))
    write_set(tmp_path / "photos", [1])
    for name in ("dog_7", "hut"):
        write_grey(tmp_path / "photos" / f"{name}.png", 0)
    found = read_prompt_set(tmp_path / "output.json", real=tmp_path / "photos")
    assert [(p.name, p.prompt, p.category) for p in found] == [
        ("dog_7", "a dog", "animals"),
        ("hut", "a hut", "houses"),
    ]
    (tmp_path / "photo.json").write_text(json.dumps(["a", "b"]))
    assert [p.name for p in read_prompt_set(tmp_path / "photo.json")] == ["00000", "00001"]


def test_categories_by_file_name(tmp_path: Path) -> None:
    write_bench(tmp_path)
    (tmp_path / "categories.json").write_text(json.dumps({f"0000{i}.jpg": f"c{i % 2}" for i in range(4)}))
    assert categories_of(read_prompt_set(tmp_path)) == ["c0", "c1"]


def test_a_part_is_spread_over_the_set(tmp_path: Path) -> None:
    found = read_prompt_set(write_bench(tmp_path))
    assert [prompt.number for prompt in choose_evenly(found, 2)] == [0, 2]
    assert choose_evenly(found, None) == found
    with pytest.raises(ValueError, match="num_prompts must be 1 to 4"):
        choose_evenly(found, 5)


def fewer_lines(folder: Path) -> None:
    (folder / "prompt.txt").write_text("a cat\na dog\n")


def empty_line(folder: Path) -> None:
    (folder / "prompt.txt").write_text("a cat\n\na dog\na hut\na den\n")


def no_text(folder: Path) -> None:
    (folder / "prompt.txt").write_text("\n")


def bad_utf8(folder: Path) -> None:
    (folder / "prompt.txt").write_bytes(b"a\xff\nb\nc\nd\n")


def twice(folder: Path) -> None:
    write_grey(folder / "real-img-benchmark" / "00001.jpg", 3)


def overlap(folder: Path) -> None:
    (folder / "categories.json").write_text('{"a": [0, 2], "b": [2, 3]}')


def gap(folder: Path) -> None:
    (folder / "categories.json").write_text('{"a": [0, 1], "b": [3, 3]}')


def short_range(folder: Path) -> None:
    (folder / "categories.json").write_text('{"a": [0, 2]}')


def odd_range(folder: Path) -> None:
    (folder / "categories.json").write_text('{"a": [0, "3"]}')


def half_named(folder: Path) -> None:
    (folder / "categories.json").write_text('{"00000.jpg": "a"}')


def no_json(folder: Path) -> None:
    (folder / "categories.json").write_text("{")


def no_prompts(folder: Path) -> None:
    (folder / "prompt.txt").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (fewer_lines, "prompts and real must be as many: .* has 2 lines, .* 4 images"),
        (empty_line, "line 2 of .* is empty"),
        (no_text, "holds no prompt"),
        (bad_utf8, "cannot be read as UTF-8"),
        (twice, r"has 00001\.jpg and 00001\.png; one of them must go"),
        (overlap, "after line 2 comes 2"),
        (gap, "after line 1 comes 3"),
        (short_range, "after line 2 comes 4"),
        (odd_range, r"a must be \[first line, last line\] from 0, got \[0, '3'\]"),
        (half_named, "gives no category for 00001, 00002, 00003"),
        (no_json, "cannot be read as JSON"),
        (no_prompts, r"has no short prompts; expected prompt\.txt or short_prompts\.txt"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_broken_sets_are_refused_by_name(spoil, message: str, tmp_path: Path) -> None:
    write_bench(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        read_prompt_set(tmp_path)


def test_other_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read_prompt_set(tmp_path / "no.txt")
    (tmp_path / "p.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match="length chooses among the prompts of a folder"):
        read_prompt_set(tmp_path / "p.txt", length="long")
    (tmp_path / "p.json").write_text('{"x.jpg": {"prompt": "a"}, "y/x.png": {"prompt": "b"}}')
    with pytest.raises(ValueError, match="x is there more than once"):
        read_prompt_set(tmp_path / "p.json")
    (tmp_path / "p.json").write_text('{"x.jpg": {"prompt": "a"}, "y.png": {"prompt": "b"}}')
    write_grey(tmp_path / "photos" / "x.png", 0)
    with pytest.raises(ValueError, match="has no real image of y, which"):
        read_prompt_set(tmp_path / "p.json", real=tmp_path / "photos")
    (tmp_path / "p.json").write_text("3")
    with pytest.raises(ValueError, match="must hold a list of texts"):
        read_prompt_set(tmp_path / "p.json")
