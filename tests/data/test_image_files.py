"""Image files: found by name, split by what they are, read or refused."""

import errno
import hashlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile

from realgen.data.image_files import (
    ImageFile,
    check_folders,
    check_readable,
    digest,
    find_images,
    read_image,
    split_files,
)
from realgen.image_decoding import open_image


def write(path, color=(255, 0, 0), size=(6, 4), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)
    return path


def test_images_are_found_in_all_folders_by_name(tmp_path):
    for name in ("b/2.png", "b/10.JPG", "a.webp", "c/.hidden.png", "c/z.tiff"):
        write(tmp_path / "one" / name)
    write(tmp_path / "two" / "a.png")
    (tmp_path / "one" / "notes.txt").write_text("no image")
    os.symlink(tmp_path / "two", tmp_path / "one" / "linked")
    found = find_images([tmp_path / "one", tmp_path / "two"], argument="real")
    assert [file.name for file in found] == ["a.webp", "b/10.JPG", "b/2.png", "c/z.tiff", "linked/a.png"]
    (alone,) = find_images([tmp_path / "two"], argument="real")
    assert alone == ImageFile(tmp_path / "two" / "a.png", "a.png")


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="real must be a folder of images, 'nowhere' is none"):
        check_folders(["nowhere"], argument="real")
    with pytest.raises(ValueError, match="real must name at least one folder"):
        check_folders([], argument="real")
    with pytest.raises(ValueError, match=r"generated must hold images \(.png.*\), .* holds none"):
        find_images([tmp_path], argument="generated")
    assert check_folders(str(tmp_path), argument="real") == (tmp_path,)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    write(tmp_path / "open" / "a.png")
    (tmp_path / "shut").mkdir()
    listed = os.scandir

    def scandir(folder):
        if Path(folder).name == "shut":  # root may list what others may not
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ValueError, match=r"real: the folder '.*/shut' cannot be listed \(Permission denied\)"):
        find_images([tmp_path], argument="real")


def test_one_readable_file_is_enough_and_none_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    (tmp_path / "b.png").write_bytes(b"")
    broken = find_images([tmp_path], argument="real")
    with pytest.raises(ValueError, match=r"none of the 2 real images can be read; first: .*a.png: the image cannot be"):
        check_readable(broken, purpose="real images")
    write(tmp_path / "c.png")
    check_readable(find_images([tmp_path], argument="real"), purpose="real images")


def files(number):
    return [ImageFile(Path(f"{i}.png"), f"{i}.png") for i in range(number)]


def test_the_split_sets_the_share_aside_and_moves_no_file_when_others_come():
    train, validation = split_files(files(2000), 0.2)
    assert len(validation) == pytest.approx(400, abs=3 * 18)  # the deviation of a binomial
    assert sorted(train + validation) == sorted(files(2000))
    _, fewer = split_files(files(1000), 0.2)
    assert fewer == [file for file in validation if int(file.path.stem) < 1000]
    _, more = split_files(files(2000), 0.4)
    assert set(validation) < set(more)


def test_the_split_is_a_hash_of_the_name_without_its_suffix():
    place = int.from_bytes(hashlib.sha256(b"deep/cat").digest()[:8], "big") / 2**64
    pair = [ImageFile(Path("x/deep/cat.png"), "deep/cat.png"), ImageFile(Path("y/deep/cat.jpg"), "deep/cat.jpg")]
    assert split_files(pair, place + 1e-6) == ([], pair)
    assert split_files(pair, place - 1e-6) == (pair, [])


def test_the_split_by_content_keeps_copies_together(tmp_path):
    originals = [write(tmp_path / f"{i}.png", color=(i, 0, 0)) for i in range(30)]
    copies = [tmp_path / f"copy-{path.name}" for path in originals]
    for path, copy in zip(originals, copies, strict=True):
        copy.write_bytes(path.read_bytes())
    both = find_images([tmp_path], argument="real")
    sides = {file.name: side for side, part in enumerate(split_files(both, 0.5, by="content")) for file in part}
    assert all(sides[path.name] == sides[copy.name] for path, copy in zip(originals, copies, strict=True))
    assert set(sides.values()) == {0, 1}
    gone = [ImageFile(tmp_path / "gone.png", "gone.png")]  # has no content to go by
    assert split_files(gone, 0.5, by="content") == split_files(gone, 0.5)


def test_digest_tells_other_files_apart():
    assert digest(files(3)) == digest(files(3))
    assert digest(files(3)) != digest(files(4))


def test_an_image_is_read_upright_in_rgb(tmp_path):
    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    pixels[0, 0] = (255, 51, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.shape == (3, 4, 6)
    torch.testing.assert_close(image[:, 0, 0], torch.tensor([1.0, 0.2, 0.0]))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (6, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (3, 6, 4)
    Image.new("L", (6, 4), 51).save(tmp_path / "grey.png")
    torch.testing.assert_close(read_image(tmp_path / "grey.png"), torch.full((3, 4, 6), 0.2))


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_broken_file_is_refused(tmp_path, content):
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be (decoded|read)"):
        read_image(path)


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match="cannot be decoded"):
        read_image(path)


def test_classes_side_by_side_are_told_apart_at_any_depth(tmp_path):
    for name in ("cat/0_real/1.png", "cat/1_fake/1.png", "dog/0_real/2.png", "dog/1_fake/3.png"):
        write(tmp_path / name)
    real, generated = (find_images([tmp_path], argument=f"--{name}") for name in ("real", "generated"))
    assert [file.name for file in real] == ["cat/1.png", "dog/2.png"]  # as a pair of one name, of one split
    assert [file.path for file in generated] == [tmp_path / "cat/1_fake/1.png", tmp_path / "dog/1_fake/3.png"]
    assert len(find_images([tmp_path / "cat" / "1_fake"], argument="real")) == 1  # as it is named, it is taken


def test_heic_is_told_of_and_read_where_its_package_is(tmp_path, monkeypatch, caplog):
    write(tmp_path / "a.png")
    write(tmp_path / "b.bmp", (0, 0, 255)).rename(tmp_path / "b.HEIC")
    assert [file.name for file in find_images([tmp_path], argument="real")] == ["a.png"]
    assert "real: 1 HEIC files, such as" in caplog.text
    caplog.clear()

    def register():  # the package itself is an extra: here a BMP is what it reads
        Image.register_open("HEIF", BmpImageFile, lambda start: start[:2] == b"BM")

    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    monkeypatch.setattr("realgen.data.image_files.SUFFIXES", (".png", ".heic"))
    monkeypatch.setitem(Image.OPEN, "HEIF", None)
    monkeypatch.setattr(Image, "ID", list(Image.ID))  # a format left there without an opener fails every later open
    found = find_images([tmp_path], argument="real")
    assert [file.name for file in found] == ["a.png", "b.HEIC"]
    with open_image(found[1].path, ["HEIF"]) as image:
        assert image.convert("RGB").getpixel((0, 0)) == (0, 0, 255)
    assert "HEIC" not in caplog.text
