from pathlib import Path

import pytest
import torch
from PIL import Image

from realgen.data.image_files import ImageFile, find_images
from realgen.data.probe_files import SPLITS, Divided, compare_formats, divide, prepare
from realgen.functional.images import jpeg_round_trip
from realgen.functional.network_input import NetworkInput, to_network_input

WANTED = NetworkInput((16, 16), (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def folders(tmp_path):
    for name, suffix in (("real", "jpg"), ("generated", "png")):
        (tmp_path / name).mkdir()
        for number in range(400):
            (tmp_path / name / f"{number}.{suffix}").touch()
    return tmp_path / "real", tmp_path / "generated"


def shares(divided, label):
    splits = [split for split, generated in zip(divided.splits, divided.generated, strict=True) if generated == label]
    return [splits.count(split) / len(splits) for split in SPLITS]


@pytest.mark.parametrize("held_out", [0.3, 0.8])
def test_half_of_what_is_held_out_calibrates_and_half_tests(folders, held_out):
    divided = divide(*folders, held_out)
    assert len(divided.files) == len(set(divided.files)) == 800
    for label in (False, True):
        assert shares(divided, label) == pytest.approx([1 - held_out, held_out / 2, held_out / 2], abs=0.08)


def test_a_real_image_and_its_generated_counterpart_fall_into_the_same_split(folders):
    divided = divide(*folders, 0.3)
    splits = [
        {
            file.path.stem: split
            for file, split, label in zip(*divided[::2], divided.generated, strict=True)
            if label == of
        }
        for of in (False, True)
    ]
    assert splits[0] == splits[1]


def test_the_same_image_under_both_labels_is_refused(folders):
    for folder, name in zip(folders, ("7.jpg", "8.png"), strict=True):
        (folder / name).write_bytes(b"the same")
    with pytest.raises(ValueError, match=r"--real and --generated must not share images: .*8\.png has the content of"):
        divide(*folders, 0.3)


def test_too_few_images(folders):
    for number in range(20, 400):
        (folders[1] / f"{number}.png").unlink()
    with pytest.raises(ValueError, match=r"--generated .*has 20 images, of which \d to (calibrate|test) with"):
        divide(*folders, 0.05)
    with pytest.raises(ValueError, match="--real must be a folder of images"):
        divide(folders[0] / "none", folders[1], 0.3)


def formats(real, generated, **options):
    """Of files given by their quality, None for one that is no JPEG."""
    files = [ImageFile(Path(f"{number}"), f"{number}") for number in range(len(real) + len(generated))]
    qualities = {file.path: quality for file, quality in zip(files, [*real, *generated], strict=True) if quality}
    labels = [False] * len(real) + [True] * len(generated)
    return compare_formats(Divided(files, labels, ["fit"] * len(files)), qualities, **options).splitlines()


def test_says_what_the_files_are_and_warns_of_shortcuts():
    lines = formats([90, 92, 95, None], [None] * 4, match_jpeg=False)
    assert lines[:2] == ["real: 4 images, 75% of them JPEG, median quality 92", "generated: 4 images, 0% of them JPEG"]
    assert lines[2].startswith("warning: the file formats alone tell the classes apart")
    assert len(formats([90, 92, 95, None], [None] * 4, match_jpeg=True)) == 2
    assert len(formats([90] * 4, [92] * 4, match_jpeg=False)) == 2
    assert "differ in quality" in formats([95] * 4, [75] * 4, match_jpeg=False)[2]


def test_images_of_many_sizes_make_one_batch_and_broken_files_are_named(tmp_path):
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((16, 16), (20, 40))]
    for name, image in zip("ac", images, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_text("no image")
    files = find_images([tmp_path], argument="--real")
    rows, pixels, broken = prepare(WANTED, {files[2].path: 60}, [(row, file.path) for row, file in enumerate(files)])
    assert rows == [0, 2]
    first, last = images[0][None] / 255, jpeg_round_trip(images[1][None] / 255, 60)
    torch.testing.assert_close(pixels, torch.cat([to_network_input(part, WANTED) for part in (first, last)]))
    assert len(broken) == 1
    assert broken[0].startswith(f"{tmp_path / 'b.png'}: the image cannot be decoded")


def test_nothing_readable(tmp_path):
    (tmp_path / "b.png").write_text("no image")
    rows, pixels, broken = prepare(WANTED, {}, [(0, tmp_path / "b.png")])
    assert (rows, pixels, len(broken)) == ([], None, 1)
