from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from realgen.data import write_shards
from realgen.image_decoding import decode_image


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_webdataset_reads_what_was_written(tmp_path: Path, make_image: Callable[..., Image.Image]) -> None:
    make_image(1).save(tmp_path / "one.JPEG")
    samples = [
        {"prompt": " a cat\n"},
        {"prompt": "eine Kätzin", "image": make_image(0), "source": "crop", "box": [1, 2]},
        {"prompt": "a dog", "image": tmp_path / "one.JPEG"},
    ]
    paths = write_shards(iter(samples), tmp_path / "train", 2)
    assert [path.name for path in paths] == ["train-000000.tar", "train-000001.tar"]

    read = list(webdataset.WebDataset([str(path) for path in paths], shardshuffle=False))
    assert [sample["__key__"] for sample in read] == ["000000000", "000000001", "000000002"]
    assert [sample["txt"].decode() for sample in read] == ["a cat", "eine Kätzin", "a dog"]
    assert json.loads(read[1]["json"]) == {"box": [1, 2], "source": "crop"}
    assert "json" not in read[0]
    np.testing.assert_array_equal(np.array(decode_image(read[1]["png"])), np.array(make_image(0)))
    assert read[2]["jpg"] == (tmp_path / "one.JPEG").read_bytes()


def test_bytes_depend_on_the_samples_only(tmp_path: Path, make_image: Callable[..., Image.Image]) -> None:
    one = write_shards([{"prompt": "a", "x": 1, "y": 2, "image": make_image()}], tmp_path / "one" / "train")
    two = write_shards([{"y": 2, "prompt": "a", "image": make_image(), "x": 1}], tmp_path / "two" / "train")
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in one + two}
    assert len(digests) == 1
    with tarfile.open(one[0]) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0, 0, 0, "", "")}


def test_shards_are_replaced_only_when_asked(tmp_path: Path) -> None:
    output = tmp_path / "train"
    write_shards([{"prompt": str(i)} for i in range(3)], output, 1)
    (output / "README.md").write_text("mine")
    (output / "train-extra.tar").write_text("mine too")
    with pytest.raises(ValueError, match=r"already holds 3 shards \(train-000000.tar"):
        write_shards([{"prompt": "new"}], output)
    write_shards([{"prompt": "new"}], output, overwrite=True)
    assert names(output) == ["README.md", "train-000000.tar", "train-extra.tar"]


def test_an_error_leaves_the_old_shards_and_nothing_else(tmp_path: Path) -> None:
    output = tmp_path / "train"
    (old,) = write_shards([{"prompt": "old"}], output)
    before = old.read_bytes()
    with pytest.raises(ValueError, match="sample 1: 'prompt' must be a text"):
        write_shards([{"prompt": "new"}, {"prompt": "  "}], output, 1, overwrite=True)
    assert old.read_bytes() == before
    assert names(tmp_path) == ["train"]
    assert names(output) == ["train-000000.tar"]


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"text": "a"}, "sample 0: 'prompt' must be a text that is not empty, got None"),
        ({"prompt": "a", "x": object()}, "cannot be stored as JSON and UTF-8: Object of type object"),
        ({"prompt": "a", "x": float("nan")}, "cannot be stored as JSON and UTF-8"),
        ({"prompt": "a\ud800"}, "cannot be stored as JSON and UTF-8: 'utf-8' codec"),
        ({"prompt": "a", "image": 3}, "'image' must be a PIL.Image, a path or None, got int"),
        ({"prompt": "a", "image": "there/is/none.png"}, "the image there/is/none.png does not exist"),
        (
            {"prompt": "a", "image": "photo.gif"},
            "must end in .png, .jpg, .jpeg, .webp, .bmp, .tif, .tiff, got 'photo.gif'",
        ),
    ],
)
def test_unusable_samples(tmp_path: Path, sample: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_shards([sample], tmp_path / "train")
    assert names(tmp_path) == []


def test_a_damaged_real_image_is_not_stored(tmp_path: Path, make_image: Callable[..., Image.Image]) -> None:
    path = tmp_path / "photo.png"
    make_image(height=64, width=64).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"photo.png: the image cannot be decoded \(.*truncated"):
        write_shards([{"prompt": "a", "image": path}], tmp_path / "train")


def test_numbers_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="samples_per_shard must be at least 1, got 0"):
        write_shards([{"prompt": "a"}], tmp_path / "train", 0)
    with pytest.raises(ValueError, match="samples must hold at least one prompt"):
        write_shards([], tmp_path / "train")
