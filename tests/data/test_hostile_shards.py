"""Shards and files of prompts that are made to do harm, or come from other systems."""

from __future__ import annotations

import codecs
import importlib.util
import io
import json
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from lightning.fabric.utilities.apply_func import move_data_to_device
from PIL import Image

from realgen.data.make_shards import make_shards
from realgen.data.prompt_table import PromptTable
from realgen.data.shard_reader import InvalidSample, Sample, read_samples
from realgen.data.shards import REAL_IMAGE_SUFFIXES, write_shards
from realgen.generation.request import read_prompts
from realgen.given_files import MAX_DEPTH


def read(data: bytes, *, real_images: bool = False) -> list[Sample | InvalidSample]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        return [sample for _, sample in read_samples(file, real_images=real_images)]


def member(name: str, data: bytes = b"a cat", *, pax: Mapping[str, str] | None = None, **fields: object) -> bytes:
    """A member with any fields in its header, right or wrong, and its content."""
    header = tarfile.TarInfo(name)
    header.size = len(data)
    header.pax_headers = dict(pax or {})
    for field, value in fields.items():
        setattr(header, field, value)
    kind = tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT
    return header.tobuf(kind, errors="surrogateescape") + data + bytes(-len(data) % 512)


def between(*members: bytes) -> bytes:
    return member("000.txt", b"before") + b"".join(members) + member("zzz.txt", b"after") + bytes(1024)


PASSED_OVER = {
    "objects nested below json's own limit": [member("a.txt"), member("a.json", b'{"x":' * 900 + b"1" + b"}" * 900)],
    "a list nested deep": [member("a.txt"), member("a.json", b'{"x":' + b"[" * 100 + b"]" * 100 + b"}")],
    "a .json of 100 MB": [member("a.txt"), member("a.json", b'{"x": "' + b"x" * 10**8 + b'"}')],
    "a prompt of 100 MB": [member("a.txt", b"cat " * 25 * 10**6)],
    "a prompt longer than any server takes": [member("a.txt", b"x" * 16_385)],
    "a name that is not UTF-8": [member("caf\udce9.txt")],
    "a name of 100,000 characters": [member("a" * 100_000 + ".txt")],
    "a NUL in the prompt": [member("a.txt", b"a cat\0")],
    "UTF-16 without a byte order mark": [member("a.txt", "a cat".encode("utf-16-le"))],
    "UTF-16 cut in half": [member("a.txt", "a cat".encode("utf-16")[:-1])],
    "a symbolic link in place of the prompt": [member("a.txt", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
    "a hard link in place of the prompt": [member("a.txt", b"", type=tarfile.LNKTYPE, linkname="000.txt")],
    "a FIFO in place of the prompt": [member("a.txt", b"", type=tarfile.FIFOTYPE)],
    "an old sparse header without its fields": [member("a.txt", b"x" * 512, type=tarfile.GNUTYPE_SPARSE)],
    "a sparse member of a terabyte": [
        member("a.txt", pax={"GNU.sparse.map": "0,5", "GNU.sparse.size": str(2**40), "GNU.sparse.name": "a.txt"})
    ],
}  # fmt: skip


@pytest.mark.attack("shards", "a member that is passed over by name, and the rest is read")
@pytest.mark.parametrize("members", [pytest.param(members, id=name) for name, members in PASSED_OVER.items()])
def test_it_is_named_and_the_rest_of_the_shard_is_read(members: list[bytes], tmp_path: Path) -> None:
    data = between(*members)
    before, broken, after = read(data)
    assert [before, after] == [Sample("000", "before", {}, None), Sample("zzz", "after", {}, None)]
    assert isinstance(broken, InvalidSample)
    assert len(broken.key) + len(broken.reason) < 1500
    (tmp_path / "a.tar").write_bytes(data)
    table = PromptTable([str(tmp_path / "a.tar")], max_in_memory=1)
    assert (len(table), table.skipped) == (2, 1)
    print(table.skipped_names[0].encode())  # a terminal can show it


@pytest.mark.attack("shards", "a name that is made to be read slowly")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["a/" * 10**6, "a/" * 10**6 + "b", "/" * 10**6, "a" * 10**6])
def test_a_name_without_a_suffix_is_no_sample_at_once(name: str) -> None:
    assert [sample.key for sample in read(between(member(name)))] == ["000", "zzz"]


@pytest.mark.attack("shards", "a header after which the rest of the shard is lost, and said to be")
@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(member("a.txt", b"", size=-512), id="size of -512"),
        pytest.param(member("a.txt", b"", size=-(2**62)), id="size of -2^62"),
        pytest.param(member("a.txt", pax={"size": "-1024"}), id="pax size of -1024"),
        pytest.param(member("a.txt", pax={"size": "99999999999999999999999"}), id="pax size of 10^23"),
        pytest.param(member("a.txt", pax={"GNU.sparse.size": "x", "GNU.sparse.map": "y"}), id="sparse map of letters"),
        pytest.param(bytes(1024), id="zeros as at the end"),
        pytest.param(member("p", b"0 path=a\n", type=b"x"), id="pax record of no length"),
        pytest.param(b"".join(member("././@LongLink", b"x", type=b"L") for _ in range(3000)), id="3000 long names"),
        pytest.param(member("000.txt", b"", size=-1024), id="size that leads back to the member before"),
    ],
)
def test_damage_is_named_and_what_came_before_is_kept(broken: bytes) -> None:
    *before, said = read(between(broken))
    assert isinstance(said, InvalidSample)
    assert "damaged or cut off here" in said.reason
    assert before in ([Sample("000", "before", {}, None)], [])


def test_nested_metadata_that_is_read_also_passes_through_lightning() -> None:
    deep = json.dumps({"x": json.loads("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1))}).encode()
    _, sample, _ = read(between(member("a.txt"), member("a.json", deep)))
    assert isinstance(sample, Sample)
    assert move_data_to_device(dict(sample.metadata), "cpu") == sample.metadata


def test_names_with_dots_are_named_one_by_one() -> None:
    dotted = [member(f"photo.v{number}.txt") for number in range(5)]
    found = read(between(*dotted))
    reasons = [sample.reason for sample in found if isinstance(sample, InvalidSample)]
    assert len(reasons) == 5
    assert reasons[3] == "it has no .txt: a sample's name ends at its first dot; rename 'photo.v3.txt'"
    together = read(between(member("photo.txt", b"whole"), *dotted))
    assert together[1] == Sample("photo", "whole", {}, None)  # the others belong to it, as WebDataset sees it


@pytest.mark.parametrize("suffix", REAL_IMAGE_SUFFIXES)
def test_real_images_of_all_known_suffixes_are_read(suffix: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / f"a{suffix}")
    (shard,) = write_shards([{"prompt": "a cat", "image": tmp_path / f"a{suffix}"}], tmp_path / "train")
    table = PromptTable([str(shard)], real_images=True)
    assert (len(table), table.image_shape) == (1, (3, 8, 8))


@pytest.mark.attack("shards", "a real image that is not read, which is said")
@pytest.mark.parametrize("suffix", [".avif", ".HEIC", ".gif"])
def test_real_images_of_other_suffixes_are_named(suffix: str) -> None:
    data = between(member("a.txt"), member(f"a{suffix}", b"x"))
    assert not any(isinstance(sample, InvalidSample) for sample in read(data))
    (broken,) = (sample for sample in read(data, real_images=True) if isinstance(sample, InvalidSample))
    assert broken.reason.startswith(f"its real image is a {suffix.lower()}, expected .png, .jpg")
    assert ("pillow-heif" in broken.reason) is (suffix == ".HEIC")


def test_a_heic_photograph_for_a_shard_names_the_package_that_reads_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got 'a\.HEIC'; with the package pillow-heif .* they are read"):
        write_shards([{"prompt": "a cat", "image": tmp_path / "a.HEIC"}], tmp_path / "train")


def test_heic_photographs_of_shards_are_read_where_the_package_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules are made once more, as they are where it is installed."""
    names = ["realgen.image_decoding", "realgen.data.shards", "realgen.data.shard_reader"]
    specs, find = [importlib.util.find_spec(name) for name in names], importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "pillow_heif" or find(name))
    for spec in specs:
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
    with tempfile.TemporaryFile() as file:
        file.write(between(member("a.txt"), member("a.HEIC", b"x")))
        file.seek(0)
        samples = [sample for _, sample in module.read_samples(file, real_images=True)]
    assert [getattr(sample, "real_image", "refused") for sample in samples] == [None, b"x", None]


@pytest.mark.attack("shards", "a bomb as the real image")
def test_a_bomb_in_a_shard_is_passed_over(tmp_path: Path) -> None:
    Image.new("1", (9000, 9000)).save(file := io.BytesIO(), "PNG")
    Image.new("RGB", (8, 8)).save(small := io.BytesIO(), "PNG")
    images = member("a.txt") + member("a.png", file.getvalue()) + member("b.txt") + member("b.png", small.getvalue())
    (tmp_path / "a.tar").write_bytes(images + bytes(1024))
    table = PromptTable([str(tmp_path / "a.tar")], real_images=True)
    assert (len(table), table.skipped) == (1, 1)
    assert "9000 x 9000 pixels" in table.skipped_names[0]


ENCODINGS = {
    "UTF-8 with a byte order mark": (b"", "utf-8-sig", "\n"),
    "UTF-16, little end first": (codecs.BOM_UTF16_LE, "utf-16-le", "\n"),
    "UTF-16, big end first": (codecs.BOM_UTF16_BE, "utf-16-be", "\r\n"),
    "UTF-32": (b"", "utf-32", "\n"),
    "lines end as on an old Mac": (b"", "utf-8", "\r"),
    "lines end as on Windows": (b"", "utf-8", "\r\n"),
}
OTHER_SYSTEMS = pytest.mark.parametrize("how", [pytest.param(how, id=name) for name, how in ENCODINGS.items()])


def encoded(lines: list[str], how: tuple[bytes, str, str]) -> bytes:
    mark, encoding, end = how
    return mark + "".join(line + end for line in lines).encode(encoding)


@pytest.mark.attack("prompts", "a file of prompts from another system")
@OTHER_SYSTEMS
@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_files_of_other_systems_have_the_same_prompts(how: tuple[bytes, str, str], kind: str, tmp_path: Path) -> None:
    lines = ["Kätzchen", "Hund"] if kind == "txt" else ['{"prompt": "Kätzchen"}', '{"prompt": "Hund"}']
    path = tmp_path / f"prompts.{kind}"
    path.write_bytes(encoded(lines, how))
    assert make_shards(path, tmp_path / "train").startswith("wrote 2 prompts")
    table = PromptTable([str(tmp_path / "train" / "train-000000.tar")])
    assert [table[0].prompt, table[1].prompt] == ["Kätzchen", "Hund"]
    if kind == "txt":
        assert read_prompts([], str(path)) == ["Kätzchen", "Hund"]


@pytest.mark.attack("prompts", "a caption from another system")
@OTHER_SYSTEMS
def test_captions_of_other_systems_are_the_same(how: tuple[bytes, str, str]) -> None:
    caption = encoded(["Kätzchen", "Hund"], how)
    assert read(between(member("a.txt", caption)))[1] == Sample("a", "Kätzchen\nHund", {}, None)


@pytest.mark.attack("prompts", "a file with a line that is no prompt")
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"a\0cat", "NUL"),
        (b"x" * 100_000_000, "it has 100000000 characters, a prompt may have 16384"),
        (b"caf\xe9", "can't decode byte 0xe9 in position 3"),
        ("a cat".encode("utf-16-le"), "NUL"),
    ],
)
def test_lines_that_are_no_prompts_are_named(line: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"\xef\xbb\xbfa dog\n" + line + b"\na cow\n")
    with pytest.raises(ValueError, match=rf"line 2.*{message}") as caught:
        make_shards(path, tmp_path / "train")
    assert len(str(caught.value)) < 400
    with pytest.raises(ValueError, match=rf"line 2.*{message}"):
        read_prompts([], str(path))
    assert not (tmp_path / "train").exists()


@pytest.mark.attack("prompts", "JSON that is nested too deep, or not UTF-8")
@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b'{"prompt": "caf\xe9"}', b'{"prompt": "\\ud800"}', b'{"prompt": "\\u0000a"}']
)
def test_lines_of_json_are_named(data: bytes, tmp_path: Path, write_tar: Callable[..., Path]) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "a"}\n' + data)
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: "):
        make_shards(tmp_path / "a.jsonl", tmp_path / "train")
