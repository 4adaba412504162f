"""Folders in which one image has many names: each real file counts once, and no split leaks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from realgen.data.image_files import find_images, group_names, split_files
from realgen.data.image_folders import ImageFolders

NUMBER = 24


def write_images(folder: Path, *, first: int = 0, suffix: str = "png") -> Path:
    """Images that all differ."""
    folder.mkdir(parents=True)
    for number in range(first, first + NUMBER):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.{suffix}")
    return folder


def link_to_itself(folder: Path) -> None:
    (folder / "again").symlink_to(folder)


def link_to_the_parent(folder: Path) -> None:
    (folder / "up").symlink_to("..")


def two_loops(folder: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (folder / name).mkdir()
        (folder / name / "loop").symlink_to(folder / other)


def link_to_each_file(folder: Path) -> None:
    for path in list(folder.iterdir()):
        (folder / f"0-{path.name}").symlink_to(path)


def hard_link_to_each_file(folder: Path) -> None:
    for path in list(folder.iterdir()):
        os.link(path, folder / f"x{path.stem}.PNG")


def a_folder_that_is_linked_and_there(folder: Path) -> None:
    (folder / "z").mkdir()
    for path in list(folder.glob("*.png")):
        path.rename(folder / "z" / path.name)
    (folder / "a").symlink_to("z")


WAYS = [
    link_to_itself,
    link_to_the_parent,
    two_loops,
    link_to_each_file,
    hard_link_to_each_file,
    a_folder_that_is_linked_and_there,
]


@pytest.mark.attack("folders", "one image under many names, by links and loops")
@pytest.mark.parametrize("way", WAYS)
def test_each_real_file_is_listed_once_under_its_own_name(way: Callable[[Path], None], tmp_path: Path) -> None:
    folder = write_images(tmp_path / "root" / "real")
    way(folder)
    found = find_images([folder], argument="real")
    assert len(found) == NUMBER
    assert [file.path.name for file in found] == [f"{number:02d}.png" for number in range(NUMBER)]
    assert not any(file.path.is_symlink() or "again" in file.name or "a/" in file.name for file in found)


@pytest.mark.attack("folders", "a folder that is given twice, also by way of a link")
def test_a_folder_given_twice_counts_once(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "real")
    (tmp_path / "link").symlink_to(folder)
    assert len(find_images([folder, folder, tmp_path / "link"], argument="real")) == NUMBER


@pytest.mark.attack("folders", "a link to nowhere")
def test_a_link_to_nowhere_is_left_to_the_reader_to_name(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "real")
    (folder / "x.png").symlink_to("nowhere")
    assert [file.name for file in find_images([folder], argument="real")][-1] == "x.png"


@pytest.mark.attack("folders", "copies under other names that would stand on both sides of the split")
@pytest.mark.parametrize("by", ["name", "content"])
def test_copies_stay_on_one_side(by: str, tmp_path: Path) -> None:
    real, generated = write_images(tmp_path / "real"), write_images(tmp_path / "generated", suffix="bmp")
    for path in list(real.iterdir()):
        shutil.copy(path, real / f"copy of {path.name}")
        (real / "sub").mkdir(exist_ok=True)
        shutil.copy(path, real / "sub" / f"{int(path.stem) + 500}{path.suffix}")
    data = ImageFolders(str(real), str(generated), validation_share=0.5, split_by=by)
    data.read()
    train, validation = (
        {file.path.read_bytes() for file in part[0]} for part in (data.train_files, data.validation_files)
    )
    assert len(train) > 3 < len(validation)
    assert not train & validation
    if by == "name":  # and the pairs of real and generated images still stay together
        sides = [{file.path.stem for file in part[0]} for part in (data.train_files, data.validation_files)]
        assert {file.path.stem for file in data.train_files[1]} <= sides[0]


def test_groups_of_copies_hang_together_by_way_of_others(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "real")
    for (old, new), number in zip(pairwise(sorted(folder.iterdir())), range(1, 6), strict=False):
        os.replace(shutil.copy(old, folder / "half"), new.with_suffix(".jpg"))  # 01.jpg is 00.png, and so on
        assert number == int(new.stem)
    groups = group_names(find_images([folder], argument="real"))
    assert groups == {f"{number:02d}": "00" for number in range(1, 6)}


def test_without_copies_the_split_goes_by_names_alone(tmp_path: Path) -> None:
    files = find_images([write_images(tmp_path / "real")], argument="real")
    assert group_names(files) == {}
    assert split_files(files, 0.5, groups={}) == split_files(files, 0.5)


@pytest.mark.attack("folders", "validation folders that hold images to train on")
@pytest.mark.parametrize("how", ["the same folder", "link", "copy"])
def test_given_validation_images_must_be_others(how: str, tmp_path: Path) -> None:
    real, generated = write_images(tmp_path / "real"), write_images(tmp_path / "generated", first=100)
    validation = write_images(tmp_path / "validation", first=200)
    if how == "link":
        (validation / "x.png").symlink_to(real / "03.png")
    if how == "copy":
        shutil.copy(real / "03.png", validation / "x.png")
    data = ImageFolders(
        str(real),
        str(generated),
        validation_real=str(real if how == "the same folder" else validation),
        validation_generated=str(write_images(tmp_path / "others", first=300)),
    )
    with pytest.raises(ValueError, match=r"real and validation_real must not share images: .* has the content of"):
        data.read()
