"""Folders of images, paired with prompts by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from realgen.benchmark.inputs.image_sets import (
    BenchmarkPrompt,
    find_image_set,
    images_by_name,
    model_name,
    pair,
)
from tests.helpers.toy_bench import write_grey, write_set

PROMPTS = [BenchmarkPrompt(number, f"{number:05d}", "") for number in range(3)]


def test_a_model_is_called_after_its_folder(tmp_path: Path) -> None:
    assert model_name(str(tmp_path / "flux")) == "flux"
    assert model_name(str(tmp_path / "flux" / "photo")) == "flux"
    assert model_name(str(tmp_path / "flux" / "1_fake")) == "flux"


def test_published_layout_of_images(tmp_path: Path) -> None:
    write_set(tmp_path / "flux" / "photo", [0, 0, 0], ".jpg")
    found = find_image_set("flux", str(tmp_path / "flux"))
    assert found.folder == tmp_path / "flux" / "photo"
    write_set(tmp_path / "sd3" / "1_fake", [0, 0, 0], ".jpg")
    assert find_image_set("sd3", str(tmp_path / "sd3")).folder == tmp_path / "sd3" / "1_fake"
    assert list(found.files) == ["00000", "00001", "00002"]


def test_what_is_no_image_is_passed_over(tmp_path: Path) -> None:
    write_set(tmp_path, [0, 0])
    (tmp_path / "settings.json").touch()
    (tmp_path / ".00002.png").touch()
    (tmp_path / "inner.png").mkdir()
    assert list(images_by_name(tmp_path, argument="x")) == ["00000", "00001"]


def test_extra_images_do_not_count(tmp_path: Path) -> None:
    write_set(tmp_path, [0, 0, 0, 0])
    assert pair(PROMPTS, [find_image_set("a", str(tmp_path))]) == PROMPTS


def test_missing_images_are_an_error_or_leave_their_prompts_out_for_all(tmp_path: Path) -> None:
    write_set(tmp_path / "a", [0, 0])
    write_set(tmp_path / "b", [0, 0, 0])
    (tmp_path / "b" / "00000.png").unlink()
    sets = [find_image_set(name, str(tmp_path / name)) for name in "ab"]
    with pytest.raises(ValueError, match=r"images\.a: .* has no image of 00002\. .*--allow_missing=true"):
        pair(PROMPTS, sets)
    assert [prompt.number for prompt in pair(PROMPTS, sets, allow_missing=True)] == [1]
    with pytest.raises(ValueError, match="no prompt of which every model has an image"):
        pair(PROMPTS[:1] + PROMPTS[2:], sets, allow_missing=True)


def test_other_names_are_told(tmp_path: Path) -> None:
    write_grey(tmp_path / "cat.png", 0)
    with pytest.raises(ValueError, match=r"paired by name: expected 00000, 00001, 00002, got cat\."):
        pair(PROMPTS, [find_image_set("a", str(tmp_path))], allow_missing=True)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "images.a must hold images"),
        (["x.png", "x.jpg"], r"has x\.jpg and x\.png"),
    ],
)
def test_unusable_folders(names: list[str], message: str, tmp_path: Path) -> None:
    for name in names:
        write_grey(tmp_path / name, 0)
    with pytest.raises(ValueError, match=message):
        find_image_set("a", str(tmp_path))
    with pytest.raises(ValueError, match=r"images\.a must be a folder of images"):
        images_by_name(tmp_path / "none", argument="images.a")
