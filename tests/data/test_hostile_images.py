"""Image files that are made to do harm, and what is in folders beside images."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from realgen.data.image_files import find_images, read_image
from realgen.data.jpeg_files import jpeg_quality
from realgen.image_decoding import FORMATS, MAX_PIXELS, decode_image, open_image

ROOT = Path(__file__).resolve().parent.parent.parent


def tiff(width: int, height: int, tags: dict[int, int] | None = None) -> bytes:
    """A TIFF file of one bit per pixel, all zero, compressed by deflate; 64-bit offsets are not needed."""
    rows = min(height, 8)
    strip = zlib.compress(bytes(-(-width // 8) * rows), 9)
    fields = {256: width, 257: height, 258: 1, 259: 8, 262: 1, 277: 1, 278: rows} | (tags or {})
    fields |= {273: 8, 279: len(strip)} if 322 not in fields else {324: 8, 325: len(strip)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(fields.items()))
    return b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + struct.pack("<H", len(fields)) + entries + bytes(4)


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of one bit per pixel, all zero."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((-(-width // 8) + 1) * min(height, 8)))
    all_chunks = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in all_chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.attack("images", "a PostScript file named as an image, which would start Ghostscript")
@pytest.mark.parametrize("suffix", FORMATS)
def test_postscript_is_not_run(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin" / "gs"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(ValueError, match="the image cannot be decoded"):
        read_image(path)
    assert jpeg_quality(path) is None
    assert not (tmp_path / "ran").exists()


@pytest.mark.attack("images", "an image of a format that no suffix names")
@pytest.mark.parametrize("kind", ["GIF", "PPM", "ICO", "TGA", "PCX", "PDF", "JPEG2000", "ICNS", "SGI"])
def test_other_formats_are_not_tried(kind: str) -> None:
    Image.new("RGB", (32, 32)).save(file := io.BytesIO(), kind)
    with pytest.raises(ValueError, match="the image cannot be decoded"):
        decode_image(file.getvalue())


def test_an_image_may_have_another_known_format_than_its_name_says(make_image: Callable[..., Image.Image]) -> None:
    for kind in [*FORMATS.values(), "MPO"]:  # MPO: the JPEG files of some phones
        more = {"save_all": True, "append_images": [make_image(1)]} if kind == "MPO" else {}
        make_image().save(file := io.BytesIO(), kind, **more)
        with open_image(file.getvalue()) as image:
            assert (image.format, image.size) == (kind, (4, 6))


@pytest.mark.attack("images", "a small file of more pixels than memory (decompression bomb)")
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(tiff(8192, 8193), id="TIFF"),
        pytest.param(tiff(2**27, 1), id="one row"),
        pytest.param(tiff(200_000, 200_000), id="also beyond Pillow's limit"),
        pytest.param(tiff(16, 16, {322: 65_520, 323: 65_520}), id="a tile larger than its image"),
        pytest.param(png(8192, 8193), id="PNG"),
        pytest.param(b"BM" + struct.pack("<IIIIiiHH24x", 99, 0, 54, 40, 50_000, 50_000, 1, 24), id="BMP"),
    ],
)
def test_bombs_are_refused_by_their_headers(data: bytes, tmp_path: Path) -> None:
    assert len(data) < 20_000
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"pixels are more than \d+|exceeds limit"):
        read_image(path)
    assert jpeg_quality(path) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_the_largest_image_is_read() -> None:
    with open_image(tiff(8192, MAX_PIXELS // 8192)) as image:
        assert image.size == (8192, 8192)


@pytest.mark.attack("images", "compressed text or a colour profile that unpacks to gigabytes")
@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_bombs_beside_the_pixels(kind: bytes) -> None:
    head = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"iCCP": b"k\0\0"}[kind]
    chunk = head + zlib.compress(bytes(200_000_000), 9)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(ValueError):  # as Pillow prefers
        decode_image(png(8, 8, (kind, chunk)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.attack("images", "a FIFO, socket, device or folder named as an image")
@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "link to a device", "folder"])
def test_what_is_no_regular_file_is_passed_over(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(str(path))
            listening.close()
        case "device":
            if os.geteuid():
                pytest.skip("only root may make one")
            os.mknod(path, 0o020666, os.makedev(1, 5))  # /dev/zero, which never ends
        case "link to a device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert [file.name for file in find_images([tmp_path], argument="real")] == ["a.png"]
    with pytest.raises(ValueError, match="the file cannot be read"):
        read_image(path)
    assert jpeg_quality(path) is None


@pytest.mark.attack("images", "a file name that is not UTF-8")
def test_names_of_any_bytes(tmp_path: Path) -> None:
    for name in (b"caf\xe9.png", b"\xff.jpg"):
        Image.fromarray(np.full((4, 4), name[0], np.uint8)).save(file := io.BytesIO(), "PNG")
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))).write_bytes(file.getvalue())
    code = (
        "import sys; from realgen.data.image_files import *\n"
        "files = find_images([sys.argv[1]], argument='real')\n"
        "split_files(files, 0.5), digest(files), group_names(files), check_readable(files, purpose='images')\n"
        "print(len(files))"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("2\n", "")
