"""The messages between a reward server and its clients: images and prompts there, numbers back. Never a pickle.

A request has one of two bodies, by its ``Content-Type``:

- ``application/safetensors``: ``images`` F32 [rows, 3, H, W] in [0, 1]; ``prompts`` and ``fields``, if any, in the
  metadata, each as a JSON list of as many texts. Exact.
- ``application/json``: ``{"images": [...], "prompts": [...], "fields": [...]}``, each image a base64 PNG or WebP file,
  8-bit RGB, all of one size. A server then scores the rounded image.

``fields`` are what else is known of each prompt (``Samples.metadata``), an object of JSON written as a text.

An answer is ``{"rewards": [0.25, null]}``, one number per row, null for a row that could not be scored; an error is
``{"detail": "one line"}`` with another status than 200.
"""

import base64
import io
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import safetensors
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from safetensors.numpy import save
from torch import Tensor

from realgen.checks import first_line
from realgen.functional.images import from_uint8, to_uint8
from realgen.functional.network_input import RANGE_TOLERANCE
from realgen.given_files import parse_json
from realgen.image_decoding import open_image

Encoding = Literal["safetensors", "png", "webp"]
"""How images travel: exact, or as lossless files of 8 bits, which are smaller."""

SAFETENSORS, JSON = "application/safetensors", "application/json"
MAX_PROMPT_CHARACTERS = 16_384
"""A longer prompt is refused: no text encoder reads it, and a tokenizer may take minutes."""
MAX_FIELDS_CHARACTERS = 16_384
"""Of one prompt's fields, written as JSON; more are refused."""
_MAX_BYTES_BESIDE_PIXELS = 16 * (MAX_PROMPT_CHARACTERS + MAX_FIELDS_CHARACTERS) + 4096
"""Of an image: prompt and fields, all of whose characters may be escaped twice, and the head of a file."""
_TEXT = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
"""In JSON; one without an end goes to the end, or it would be looked for again at each of its quotation marks."""
_MAX_HEADER_TEXTS = 64  # in the header of safetensors, where one tensor and prompts need fewer than ten
_PNG_BIT_DEPTH = 24  # offset of the bit depth in a PNG file, whose header chunk always comes first
_LARGEST = sys.float_info.max


class WireError(ValueError):
    """A message is invalid.

    Args:
        message: One line: what was expected, and what came.
        status: The HTTP status of the answer.
    """

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """The largest request that a server accepts."""

    max_bytes: int = 2**28
    """Largest body of a request, >= 1."""
    max_images: int = 64
    """Largest number of images in a request, >= 1."""
    max_pixels: int = 2**24
    """Largest number of pixels of all images of a request together, >= 1; checked before a file is unpacked."""

    def largest_body(self, kind: str) -> int:
        """Return the bytes that images of the allowed pixels, and their prompts, can need; at most ``max_bytes``."""
        per_pixel = 12 if kind == SAFETENSORS else 5  # three floats; three bytes in base64, and what a file adds
        return min(self.max_bytes, per_pixel * self.max_pixels + self.max_images * _MAX_BYTES_BESIDE_PIXELS)


@dataclass(frozen=True)
class RewardRequest:
    """Verified images, and their prompts and fields if the client sent any."""

    images: UInt8[np.ndarray, "rows 3 height width"] | Float32[np.ndarray, "rows 3 height width"]
    """[rows, 3, H, W] in 0..255, or in [0, 1]."""
    prompts: tuple[str, ...] | None
    """One per row."""
    metadata: tuple[Mapping[str, Any], ...] | None = None
    """What else is known of each row's prompt."""

    def pixels(self) -> Float[Tensor, "rows 3 height width"]:
        """Return the images as float32 in [0, 1]."""
        images = torch.from_numpy(self.images)
        return from_uint8(images) if images.dtype == torch.uint8 else images


def encode_request(
    images: Float[Tensor, "rows 3 height width"],
    prompts: Sequence[str] | None,
    encoding: Encoding,
    metadata: Sequence[Mapping[str, Any]] | None = None,
) -> tuple[bytes, str]:
    """Write a request of images [rows, 3, H, W] in [0, 1]; return its body and content type.

    Prompts and metadata (JSON) are one per row, or None to send none. In files NaN becomes black.
    """
    texts = {} if prompts is None else {"prompts": list(prompts)}
    if metadata is not None:
        texts["fields"] = [json.dumps(dict(row), ensure_ascii=False) for row in metadata]
    if encoding == "safetensors":
        array = images.detach().to("cpu", torch.float32).contiguous().numpy()
        return save({"images": array}, {name: json.dumps(rows) for name, rows in texts.items()} or None), SAFETENSORS
    files = []
    for pixels in to_uint8(images).permute(0, 2, 3, 1).cpu().numpy():  # [H, W, 3] each
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format=encoding, lossless=True)
        files.append(base64.b64encode(file.getvalue()).decode("ascii"))
    return json.dumps({"images": files, **texts}).encode(), JSON


def decode_request(body: bytes, content_type: str, limits: Limits) -> RewardRequest:
    """Read a request that may be hostile, of a content type, and no larger than the limits.

    Raises:
        WireError: With status 400 if the body cannot be read, 413 if it is over a limit, 415 if it is of another type,
            422 if no reward can score its content.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if len(body) > (most := limits.largest_body(kind)):
        raise WireError(f"the body must have at most {most} bytes, got {len(body)}.", 413)
    if kind == SAFETENSORS:
        images, texts = _read_safetensors(body, limits)
    elif kind == JSON:
        images, texts = _read_json(body, limits)
    else:
        raise WireError(f"Content-Type must be {SAFETENSORS} or {JSON}, got {kind[:80]!r}.", 415)
    prompts = _check_texts("prompts", texts.get("prompts"), len(images), MAX_PROMPT_CHARACTERS)
    fields = _check_texts("fields", texts.get("fields"), len(images), MAX_FIELDS_CHARACTERS)
    return RewardRequest(images, prompts, None if fields is None else tuple(map(_read_fields, fields)))


def encode_rewards(rewards: Float[Tensor, " rows"]) -> dict[str, list[float | None]]:
    """Write an answer."""
    return {"rewards": [value if math.isfinite(value) else None for value in rewards.float().tolist()]}


def decode_rewards(body: bytes, rows: int, *, low: float = -math.inf, high: float = math.inf) -> list[float]:
    """Read an answer that may be wrong: a reward from ``low`` to ``high`` for each row; NaN for null.

    Raises:
        WireError: If it is no answer, has another number of rows, or a reward that is no number, not finite or out of
            range.
    """
    answer = _load_json(body, "the answer")
    rewards = answer.get("rewards") if isinstance(answer, dict) else None
    if not isinstance(rewards, list):
        raise WireError('the answer must be {"rewards": [...]}.')
    if len(rewards) != rows:
        raise WireError(f"the answer must have {rows} rewards, got {len(rewards)}.")
    for reward in rewards:
        number = isinstance(reward, int | float) and not isinstance(reward, bool)
        finite = number and -_LARGEST <= reward <= _LARGEST  # math.isfinite fails for integers beyond all floats
        if reward is not None and not (finite and low <= reward <= high):
            got = str(reward)[:40] if number else type(reward).__name__  # a text could be a secret that is sent back
            raise WireError(f"a reward must be a number from {low} to {high}, or null, got {got}.")
    return [math.nan if reward is None else float(reward) for reward in rewards]


def _check_structure(text: bytes | str, name: str, most_texts: int) -> str:
    """Refuse JSON that holds much beside a few texts: its objects would take many times the memory of the text."""
    try:
        text = text if isinstance(text, str) else text.decode()  # json guesses UTF-16, too
    except UnicodeDecodeError as error:
        raise WireError(f"{name} is no JSON in UTF-8.", 400) from error
    beside, texts = _TEXT.subn("", text, count=most_texts + 1)
    if texts > most_texts:
        raise WireError(f"{name} must hold at most {most_texts} texts.", 413)
    if len(beside) > 1024 + 64 * most_texts:
        raise WireError(f"{name} is no JSON of texts and little else.", 400)
    return text


def _load_json(text: bytes | str, name: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not")

    try:
        return parse_json(text, parse_constant=refuse)
    except ValueError as error:
        raise WireError(f"{name} is no JSON: {str(error)[:80]}.", 400) from error


def _read_safetensors(body: bytes, limits: Limits) -> tuple[np.ndarray, dict[str, Any]]:
    end = 8 + int.from_bytes(body[:8], "little")
    header = _check_structure(body[8:end], "the header of the body", _MAX_HEADER_TEXTS)
    try:
        tensors = dict(safetensors.deserialize(body))
    except safetensors.SafetensorError as error:
        raise WireError(f"the body is no safetensors: {first_line(error)[:120]}.", 400) from error
    if set(tensors) != {"images"}:
        raise WireError(f"the body must hold one tensor, images, got {sorted(tensors)[:4]}.")
    dtype, shape = tensors["images"]["dtype"], tensors["images"]["shape"]
    if dtype != "F32":
        raise WireError(f"images must be F32 in safetensors, got {dtype}; 8-bit images travel as PNG or WebP.")
    if len(shape) != 4 or shape[1] != 3 or 0 in shape:
        raise WireError(f"images must have shape [rows, 3, height, width], got {shape[:8]}.")
    _check_size(shape[0], shape[0] * shape[2] * shape[3], limits)
    images = np.frombuffer(tensors["images"]["data"], dtype="<f4").reshape(shape)
    if bool(((images < -RANGE_TOLERANCE) | (images > 1 + RANGE_TOLERANCE)).any()):
        raise WireError(f"images must lie in [0, 1], got {np.nanmin(images):.4g} to {np.nanmax(images):.4g}.")
    metadata = json.loads(header).get("__metadata__") or {}  # safetensors has read it, and takes null for none
    texts = {name: metadata[name] for name in ("prompts", "fields") if metadata.get(name) is not None}
    return images, {
        name: _load_json(_check_structure(text, name, limits.max_images), name) for name, text in texts.items()
    }


def _read_json(body: bytes, limits: Limits) -> tuple[np.ndarray, dict[str, Any]]:
    most_texts = 3 + 3 * limits.max_images  # the names of the three lists, and what they hold
    message = _load_json(_check_structure(body, "the body", most_texts), "the body")
    if not isinstance(message, dict) or not {"images"} <= set(message) <= {"images", "prompts", "fields"}:
        raise WireError(
            'the body must be {"images": [...], "prompts": [...], "fields": [...]}, the last two if needed.'
        )
    files = message["images"]
    if not isinstance(files, list) or not files or not all(isinstance(file, str) for file in files):
        raise WireError("images must be a list of base64 texts, at least one.")
    _check_size(len(files), 0, limits)
    pixels: list[np.ndarray] = []
    for file in files:
        pixels.append(_read_image(file, limits, len(files)))
        if pixels[-1].shape != pixels[0].shape:
            raise WireError("the images of one request must have one size.")
    return np.stack(pixels).transpose(0, 3, 1, 2), message  # [rows, 3, H, W]


def _read_image(text: str, limits: Limits, rows: int) -> UInt8[np.ndarray, "height width 3"]:
    """Read one PNG or WebP file; its size is checked before it is unpacked, so a small file cannot fill the memory."""
    try:
        data = base64.b64decode(text, validate=True)
        with open_image(data, ("PNG", "WEBP")) as image:
            _check_size(rows, rows * image.width * image.height, limits)
            deep = image.format == "PNG" and data[_PNG_BIT_DEPTH] != 8
            if image.mode != "RGB" or deep or getattr(image, "n_frames", 1) != 1:
                raise WireError(f"an image must be one frame of 8-bit RGB, got {image.format} {image.mode}.")
            return np.asarray(image)
    except Exception as error:  # what Pillow raises on hostile bytes is open-ended
        if isinstance(error.__cause__, WireError):  # ours, on its way through
            raise error.__cause__ from None
        text = "an image is no base64 PNG or WebP file, or is cut off, broken or too large."
        raise WireError(text, 400) from error


def _check_size(rows: int, pixels: int, limits: Limits) -> None:
    if rows > limits.max_images:
        raise WireError(f"a request must have at most {limits.max_images} images, got {rows}.", 413)
    if pixels > limits.max_pixels:
        raise WireError(f"the images must have at most {limits.max_pixels} pixels together, got {pixels}.", 413)


def _check_texts(name: str, texts: Any, rows: int, most_characters: int) -> tuple[str, ...] | None:
    if texts is None:
        return None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise WireError(f"{name} must be a list of texts.")
    if len(texts) != rows:
        raise WireError(f"{name} must be as many as images, {rows}, got {len(texts)}.")
    if any(len(text) > most_characters for text in texts):
        raise WireError(f"each of {name} must have at most {most_characters} characters.", 413)
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:  # half a surrogate pair, which JSON lets through
        raise WireError(f"{name} must be valid Unicode.") from error
    return tuple(texts)


def _read_fields(text: str) -> dict[str, Any]:
    if not isinstance(fields := _load_json(text, "one of fields"), dict):
        raise WireError(f"each of fields must be an object of JSON, got {type(fields).__name__}.")
    return fields
