from __future__ import annotations

import io
import re
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset

from realgen.data.shard_reader import InvalidSample, Sample, read_samples


def read(data: bytes, *, real_images: bool = False, offset: int = 0) -> list[tuple[int, Sample | InvalidSample]]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(offset)
        return list(read_samples(file, real_images=real_images))


MEMBERS = {
    "000.txt": b"a cat\n",
    "000.json": b'{"source": "crop"}',
    "000.jpg": b"jpeg",
    "001.txt": "eine Kätzin".encode(),
    "002.cls": b"7",
    "002.TXT": b"a dog",
    "002.seg.png": b"not a real image",
}


@pytest.fixture
def data(tmp_path: Path, write_tar: Callable[..., Path]) -> bytes:
    return write_tar(tmp_path / "a.tar", MEMBERS).read_bytes()


def test_samples_are_those_that_webdataset_sees(data: bytes, tmp_path: Path) -> None:
    foreign = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    own = [sample for _, sample in read(data)]
    assert [sample.key for sample in own] == [sample["__key__"] for sample in foreign]
    assert own == [
        Sample("000", "a cat", {"source": "crop"}, None),
        Sample("001", "eine Kätzin", {}, None),
        Sample("002", "a dog", {}, None),
    ]


def test_real_images_are_read_when_asked_for(data: bytes) -> None:
    assert [s.real_image for _, s in read(data, real_images=True) if isinstance(s, Sample)] == [b"jpeg", None, None]


def test_reading_can_begin_at_each_offset(data: bytes) -> None:
    samples = read(data)
    for i, (offset, _) in enumerate(samples):
        assert read(data, offset=offset) == samples[i:]


def test_members_that_are_no_samples_are_passed_over() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("__meta__/000.txt", "README", "folder.txt", "folder/000.txt"):
            header = tarfile.TarInfo(name)
            header.type = tarfile.DIRTYPE if name == "folder.txt" else tarfile.REGTYPE
            header.size = 0 if name == "folder.txt" else 1
            tar.addfile(header, io.BytesIO(b"x"))
    assert [sample for _, sample in read(buffer.getvalue())] == [Sample("folder/000", "x", {}, None)]


@pytest.mark.attack("shards", "a sample with a broken member")
@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"bad.json": b"{}"}, "it has no .txt"),
        ({"bad.txt": b"Ros\xe9"}, "it is not UTF-8: .* position 3"),
        ({"bad.txt": b" \n"}, "its prompt is empty"),
        ({"bad.txt": b"a", "bad.json": b"{"}, "its .json is not JSON"),
        ({"bad.txt": b"a", "bad.json": b"[1]"}, "its .json must be an object, got list"),
        ({"bad.txt": b"a", "bad.json": b"[" * 100_000}, "its .json is not JSON"),
        ({"bad.txt": b"a", "bad.json": b'{"x": ' + b"1" * 5000 + b"}"}, "its .json is not JSON"),
        ({"bad.txt": b"a", "bad.json": b'{"x": "\xff"}'}, "it is not UTF-8"),
        ({"bad.txt": b"a", "bad.TXT": b"b"}, "it has more than one .txt"),
    ],
)
def test_broken_samples_are_named_and_the_rest_is_read(
    tmp_path: Path, write_tar: Callable[..., Path], members: dict[str, bytes], reason: str
) -> None:
    path = write_tar(tmp_path / "a.tar", {"000.txt": b"before", **members, "zzz.txt": b"after"})
    before, broken, after = (sample for _, sample in read(path.read_bytes()))
    assert [before, after] == [Sample("000", "before", {}, None), Sample("zzz", "after", {}, None)]
    assert isinstance(broken, InvalidSample)
    assert broken.key == "bad"
    assert re.search(reason, broken.reason)


# Each small member takes two blocks of 512 bytes: its header, and its content.
@pytest.mark.attack("shards", "a tar that is cut off")
@pytest.mark.parametrize(
    ("kept_bytes", "key"),
    [
        (2 * 512 * 3 + 100, "after 000"),  # within the header of 001.txt
        (2 * 512 * 3, "after 000"),  # before it
        (2 * 512 * 3 + 512 + 5, "001"),  # within its content
        (2 * 512 * 2 + 512 + 2, "000"),  # within the content of 000.jpg
    ],
)
def test_a_tar_that_is_cut_off_keeps_the_samples_before(data: bytes, kept_bytes: int, key: str) -> None:
    *whole, (_, broken) = read(data[:kept_bytes], real_images=True)
    assert isinstance(broken, InvalidSample)
    assert broken.key == key
    assert "damaged or cut off here" in broken.reason
    assert [sample.key for _, sample in whole] == (["000"] if key != "000" else [])


@pytest.mark.attack("shards", "a damaged header")
def test_a_damaged_header_in_the_middle(data: bytes) -> None:
    damaged = bytearray(data)
    damaged[2 * 512 * 3 + 10] ^= 0xFF
    (_, first), (_, broken) = read(bytes(damaged))
    assert (first.key, broken.key) == ("000", "after 000")


@pytest.mark.attack("shards", "a member larger than any file")
@pytest.mark.parametrize("size", [2**46, 2**70])
def test_a_header_with_an_impossible_size(data: bytes, size: int) -> None:
    header = tarfile.TarInfo("zzz.txt")
    header.size = size
    (_, first), (_, broken) = read(data[: 2 * 512 * 3] + header.tobuf(tarfile.GNU_FORMAT) + bytes(512))
    assert (first.key, broken.key) == ("000", "zzz")


@pytest.mark.attack("shards", "a file that is no tar")
@pytest.mark.parametrize("content", [b"", b"no tar" * 1000])
def test_a_file_that_is_no_tar(content: bytes) -> None:
    ((_, broken),) = read(content)
    assert isinstance(broken, InvalidSample)
    assert broken.key == "first member"


def test_an_empty_tar_has_no_samples() -> None:
    assert read(bytes(10240)) == []
