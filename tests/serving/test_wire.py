"""Requests and answers: what is sent is what comes out, and whatever is wrong is refused in one line."""

import base64
import io
import json
import math
import random
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save

from realgen.serving.wire import (
    JSON,
    MAX_PROMPT_CHARACTERS,
    SAFETENSORS,
    Limits,
    WireError,
    decode_request,
    decode_rewards,
    encode_request,
    encode_rewards,
)

LIMITS = Limits(max_bytes=100_000, max_images=4, max_pixels=4096)


@pytest.fixture
def images():
    return torch.rand(3, 3, 8, 6)


def in_json(**message):
    return json.dumps(message).encode()


def image_file(mode="RGB", size=(8, 8), file_format="PNG"):
    file = io.BytesIO()
    Image.new(mode, size).save(file, format=file_format)
    return base64.b64encode(file.getvalue()).decode()


def refused(body, content_type, limits=LIMITS):
    with pytest.raises(WireError) as error:
        decode_request(body, content_type, limits)
    assert str(error.value).isprintable()  # one line
    return error.value


def test_safetensors_are_exact(images):
    request = decode_request(*encode_request(images, ["a", "ü", ""], "safetensors"), LIMITS)
    assert torch.equal(request.pixels(), images)
    assert request.prompts == ("a", "ü", "")


def test_nan_travels_in_safetensors(images):
    images[1, 0, 0, 0] = torch.nan
    request = decode_request(*encode_request(images, None, "safetensors"), LIMITS)
    assert torch.equal(request.pixels().isnan(), images.isnan())
    assert request.prompts is None


@pytest.mark.parametrize("encoding", ["png", "webp"])
def test_files_hold_the_rounded_image(images, encoding):
    body, content_type = encode_request(images, ["a", "b", "c"], encoding)
    request = decode_request(body, content_type, LIMITS)
    torch.testing.assert_close(request.pixels(), (images * 255).round() / 255)
    assert request.prompts == ("a", "b", "c")


def test_another_program_can_read_the_files(images):
    body, _ = encode_request(images, None, "webp")
    first = Image.open(io.BytesIO(base64.b64decode(json.loads(body)["images"][0])))
    assert (first.format, first.size) == ("WEBP", (6, 8))
    expected = (images[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(first), expected)


@pytest.mark.attack("server", "tensors of wrong names, types, shapes, values and numbers")
@pytest.mark.parametrize(
    ("tensors", "metadata", "status", "message"),
    [
        ({"images": np.zeros((1, 3, 2, 2), np.float16)}, None, 422, "F32"),
        ({"images": np.zeros((1, 3, 2, 2), np.uint8)}, None, 422, "F32"),
        ({"images": np.zeros((3, 2, 2), np.float32)}, None, 422, r"\[rows, 3, height, width\], got \[3, 2, 2\]"),
        ({"images": np.zeros((1, 4, 2, 2), np.float32)}, None, 422, "shape"),
        ({"images": np.zeros((0, 3, 2, 2), np.float32)}, None, 422, "shape"),
        ({"images": np.full((1, 3, 2, 2), 1.5, np.float32)}, None, 422, r"lie in \[0, 1\], got 1.5"),
        ({"images": np.full((1, 3, 2, 2), -np.inf, np.float32)}, None, 422, r"lie in \[0, 1\]"),
        ({"pixels": np.zeros((1, 3, 2, 2), np.float32)}, None, 422, "one tensor, images"),
        ({"images": np.zeros((5, 3, 2, 2), np.float32)}, None, 413, "at most 4 images, got 5"),
        ({"images": np.zeros((2, 3, 64, 33), np.float32)}, None, 413, "at most 4096 pixels together, got 4224"),
        ({"images": np.zeros((1, 3, 2, 2), np.float32)}, {"prompts": "[1]"}, 422, "list of texts"),
        ({"images": np.zeros((1, 3, 2, 2), np.float32)}, {"prompts": '["a", "b"]'}, 422, "as many as images, 1, got 2"),
        ({"images": np.zeros((1, 3, 2, 2), np.float32)}, {"prompts": "["}, 400, "prompts is no JSON"),
    ],
)
def test_wrong_tensors_are_refused(tensors, metadata, status, message):
    error = refused(save(tensors, metadata), SAFETENSORS)
    assert error.status == status
    with pytest.raises(WireError, match=message):
        raise error


@pytest.mark.attack("server", "JSON of wrong shape, files of other formats, modes and sizes")
@pytest.mark.parametrize(
    ("message", "status", "expected"),
    [
        ([1], 422, "must be"),
        ({"images": [], "prompts": []}, 422, "at least one"),
        ({"images": "x"}, 422, "list of base64"),
        ({"images": ["?"]}, 400, "no base64 PNG or WebP"),
        ({"images": [base64.b64encode(b"GIF89a").decode()]}, 400, "no base64 PNG or WebP"),
        ({"images": [image_file(file_format="JPEG")]}, 400, "no base64 PNG or WebP"),
        ({"images": [image_file("RGBA")]}, 422, "8-bit RGB, got PNG RGBA"),
        ({"images": [image_file("L")]}, 422, "8-bit RGB, got PNG L"),
        ({"images": [image_file("I;16")]}, 422, "8-bit RGB"),
        (
            {"images": [image_file("RGBA", file_format="WEBP")], "prompts": None},
            422,
            "WEBP RGBA",
        ),
        ({"images": [image_file(), image_file(size=(8, 9))]}, 422, "one size"),
        ({"images": [image_file()] * 5}, 413, "at most 4 images, got 5"),
        ({"images": [image_file(size=(64, 33))] * 2}, 413, "got 4224"),
        ({"images": [image_file()], "prompts": ["\ud800"]}, 422, "valid Unicode"),
        ({"images": [image_file()], "fields": [{}]}, 422, "fields must be a list of texts"),
        ({"images": [image_file()], "fields": ["[]"]}, 422, "an object of JSON, got list"),
        ({"images": [image_file()], "fields": ["{"]}, 400, "one of fields is no JSON"),
        ({"images": [image_file()], "fields": ["{}", "{}"]}, 422, "as many as images, 1, got 2"),
        ({"images": [image_file()], "fields": ["[" * 20_000]}, 413, "16384 characters"),
        ({"images": [image_file()], "prompts": ["x" * 20_000]}, 413, "16384 characters"),
        ({"images": [image_file()], "prompt": ["x"]}, 422, "must be"),
    ],
)
def test_wrong_json_is_refused(message, status, expected):
    error = refused(json.dumps(message).encode(), JSON)
    assert error.status == status
    assert expected in str(error)


@pytest.mark.attack("server", "an image of several frames")
def test_several_frames_are_refused():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, format="PNG", save_all=True, append_images=frames[1:])
    error = refused(in_json(images=[base64.b64encode(file.getvalue()).decode()]), JSON)
    assert "one frame" in str(error)


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_file(width, height, depth, pixels):
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)).decode()


@pytest.mark.attack("server", "an image of 16 bits")
def test_sixteen_bits_are_refused_and_not_cut_to_eight():
    assert decode_request(in_json(images=[png_file(1, 1, 8, b"\0\1\2\3")]), JSON, LIMITS).images.tolist() == [
        [[[1]], [[2]], [[3]]]
    ]
    assert "8-bit" in str(refused(in_json(images=[png_file(1, 1, 16, b"\0\1\2\3\4\5\6")]), JSON))


@pytest.mark.attack("server", "a small file of a huge image")
def test_a_small_file_of_a_huge_image_is_refused_before_it_is_unpacked():
    bomb = png_file(100_000, 100_000, 8, bytes(100_000))
    assert len(bomb) < 2000
    error = refused(in_json(images=[bomb]), JSON)
    assert error.status in (400, 413)


@pytest.mark.attack("server", "safetensors whose metadata are null")
def test_tensors_without_metadata_may_say_null():
    header = b'{"__metadata__":null,"images":{"dtype":"F32","shape":[1,3,1,1],"data_offsets":[0,12]}}'
    assert decode_request(struct.pack("<Q", len(header)) + header + bytes(12), SAFETENSORS, LIMITS).prompts is None


@pytest.mark.attack("server", "garbage, pickles, deep JSON, unknown types")
def test_garbage_is_refused():
    assert refused(b"\x80\x04K\x01.", SAFETENSORS).status == 400
    assert refused(b"", SAFETENSORS).status == 400
    assert refused(b"", JSON).status == 400
    assert refused(b"[" * 50_000, JSON).status == 400
    assert refused(b'{"images": [NaN]}', JSON).status == 400
    assert refused(b"\xff\xfe", JSON).status == 400
    assert refused(b"x", "application/octet-stream").status == 415
    assert refused(b"x", "\x00\n").status == 415
    assert refused(b"x" * 100_001, SAFETENSORS).status == 413


@pytest.mark.attack("server", "requests with random bytes changed or cut off")
@pytest.mark.parametrize("encoding", ["safetensors", "png", "webp"])
def test_damaged_requests_are_refused_or_read_but_raise_nothing_else(images, encoding):
    body, content_type = encode_request(images, ["a", "b", "c"], encoding)
    dice = random.Random(0)
    outcomes = set()
    for _ in range(300):
        damaged = bytearray(body[: dice.randrange(len(body))] if dice.random() < 0.2 else body)
        for _ in range(dice.randrange(1, 8)):
            damaged[dice.randrange(len(damaged) or 1) : dice.randrange(len(damaged) or 1)] = dice.randbytes(1)
        try:
            decode_request(bytes(damaged), content_type, LIMITS)
        except WireError as error:
            outcomes.add(error.status)
    assert 400 in outcomes


def test_answers_are_exact_and_null_is_not_scored():
    rewards = torch.tensor([1 / 3, -2.5e-8, torch.nan, torch.inf])
    answer = decode_rewards(json.dumps(encode_rewards(rewards)).encode(), 4)
    assert answer[:2] == rewards[:2].tolist()
    assert all(map(math.isnan, answer[2:]))


@pytest.mark.attack("answers of servers", "NaN, infinities, huge integers, booleans, texts, wrong counts, no JSON")
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b'{"rewards": [0.5]}', "must have 2 rewards, got 1"),
        (b'{"rewards": [0.5, 0.5, 0.5]}', "must have 2 rewards, got 3"),
        (b'{"rewards": [0.5, NaN]}', "no JSON: NaN"),
        (b'{"rewards": [0.5, Infinity]}', "no JSON: Infinity"),
        (b'{"rewards": [0.5, 1e999]}', "a reward must be a number"),
        (b'{"rewards": [0.5, -1' + b"0" * 400 + b"]}", "a reward must be a number"),
        (b'{"rewards": [0.5, "1"]}', "a reward must be a number"),
        (b'{"rewards": [0.5, true]}', "a reward must be a number"),
        (b'{"rewards": [0.5, 1.01]}', "from 0.0 to 1.0"),
        (b'{"rewards": [-0.01, 0.5]}', "from 0.0 to 1.0"),
        (b'{"rewards": {"0": 1, "1": 2}}', "the answer must be"),
        (b'{"scores": [0.5, 0.5]}', "the answer must be"),
        (b"[0.5, 0.5]", "the answer must be"),
        (b"<html>", "no JSON"),
        (b"", "no JSON"),
        (b"\x80\x04]", "no JSON"),
    ],
)
def test_wrong_answers_are_found(answer, message):
    with pytest.raises(WireError, match=message):
        decode_rewards(answer, 2, low=0.0, high=1.0)


BLOATED = {
    "empty lists": (b'{"images": [%s[]]}', b"[],"),
    "empty objects": (b'{"images": [%s{}]}', b"{},"),
    "numbers": (b'{"images": [%s1]}', b"1,"),
    "names": (b'{%s"images": []}', b'"":0,'),
    "texts": (b'{"images": [%s""]}', b'"",'),
    "texts of escapes": (b'{"images": ["%s"]}', b'\\"'),
    "quotes of a text without end": (b'{"images": ["%s', b'\\"'),
    "blanks": (b'{"images": [%s]}', b" "),
    "a text beyond ASCII": ('{"images": ["\U0001f600%s"]}'.encode(), b"aaa"),
    "UTF-16": ('{"images": [%s[]]}'.encode("utf-16").replace(b"%\0s\0", b"%s"), "[],".encode("utf-16-le")),
    "quotes in UTF-16": (
        '{"images": [%s[]]}'.encode("utf-16").replace(b"%\0s\0", b"%s"),
        "[],\u2222".encode("utf-16-le"),
    ),
}


@pytest.mark.attack("server", "JSON that takes many times its size")
@pytest.mark.parametrize("case", BLOATED)
def test_json_takes_a_few_times_its_size(case):
    frame, piece = BLOATED[case]
    body = frame.replace(b"%s", piece * (3_000_000 // len(piece)))
    begin = time.monotonic()
    tracemalloc.start()
    try:
        assert refused(body, JSON, Limits()).status in (400, 413, 422)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * len(body)
    assert time.monotonic() - begin < 5


@pytest.mark.attack("server", "prompts or header of safetensors that take many times their size")
@pytest.mark.parametrize("place", ["prompts", "metadata", "tensors", "nested"])
def test_the_header_of_tensors_takes_a_few_times_its_size(place):
    count = 300_000
    one = {"dtype": "F32", "shape": [0], "data_offsets": [12, 12]}
    header = {"__metadata__": {}, "images": {"dtype": "F32", "shape": [1, 3, 1, 1], "data_offsets": [0, 12]}}
    if place == "prompts":
        header["__metadata__"] = {"prompts": "[" + "[]," * count + "[]]"}
    elif place == "metadata":
        header["__metadata__"] = {str(i): "" for i in range(count)}
    elif place == "tensors":
        header |= {str(i): one for i in range(count // 10)}
    else:
        header["__metadata__"] = {"prompts": [[] for _ in range(count)]}
    head = json.dumps(header).encode()
    body = struct.pack("<Q", len(head)) + head + bytes(12)
    tracemalloc.start()
    try:
        assert refused(body, SAFETENSORS, Limits()).status in (400, 413, 422)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(body)


@pytest.mark.attack("server", "a header of tensors that claims more bytes than there are")
@pytest.mark.parametrize("length", [0, 1, 100, 2**31, 2**63, 2**64 - 1])
def test_a_header_that_lies_about_its_length_is_refused(length):
    assert refused(struct.pack("<Q", length) + b'{"images":{}}', SAFETENSORS).status == 400


def test_a_body_is_as_large_as_the_allowed_pixels_can_need():
    limits = Limits(max_images=2, max_pixels=2 * 64 * 64)
    images, prompts = torch.rand(2, 3, 64, 64), ["\U0001f600" * MAX_PROMPT_CHARACTERS] * 2
    for encoding in ("safetensors", "png", "webp"):
        body, content_type = encode_request(images, prompts, encoding)
        assert decode_request(body, content_type, limits).prompts == tuple(prompts)
    for content_type in (SAFETENSORS, JSON):
        error = refused(b" " * 2_000_000, content_type, limits)
        assert (error.status, "bytes" in str(error)) == (413, True)
    assert Limits(max_bytes=7).largest_body(JSON) == 7


@pytest.mark.parametrize("encoding", ["safetensors", "png", "webp"])
def test_metadata_come_back_as_they_were(images, encoding):
    metadata = [{"objects": [{"class": "bench", "count": 2}], "text": "é\\"}, {}, {"none": None, "x": 0.5}]
    request = decode_request(*encode_request(images, None, encoding, metadata), LIMITS)
    assert (request.prompts, list(request.metadata)) == (None, metadata)


def test_json_may_be_written_with_indents_and_escapes(images):
    body, _ = encode_request(images, ['"a\\', "b\n{[,", "\u00e9"], "png")
    request = decode_request(json.dumps(json.loads(body), indent=8).encode(), JSON, LIMITS)
    assert request.prompts == ('"a\\', "b\n{[,", "\u00e9")
