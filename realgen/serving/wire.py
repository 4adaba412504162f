"""The messages between a reward server and its clients: images and prompts there, numbers back. Never a pickle.

A request has one of two bodies, by its ``Content-Type``:

- ``application/safetensors``: ``images`` F32 [rows, 3, H, W] in [0, 1]; ``prompts``, if any, in the metadata, as a JSON
  list of as many texts. Exact.
- ``application/json``: ``{"images": [...], "prompts": [...]}``, each image a base64 PNG or WebP file, 8-bit RGB, all of
  one size. A server then scores the rounded image.

An answer is ``{"rewards": [0.25, null]}``, one number per row, null for a row that could not be scored; an error is
``{"detail": "one line"}`` with another status than 200.
"""

from __future__ import annotations

import base64
import io
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import safetensors
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from safetensors.numpy import save
from torch import Tensor

from realgen.functional.images import from_uint8, to_uint8
from realgen.functional.network_input import RANGE_TOLERANCE

Encoding = Literal["safetensors", "png", "webp"]
"""How images travel: exact, or as lossless files of 8 bits, which are smaller."""

SAFETENSORS, JSON = "application/safetensors", "application/json"
MAX_PROMPT_CHARACTERS = 16_384
"""A longer prompt is refused: no text encoder reads it, and a tokenizer may take minutes."""
_PNG_BIT_DEPTH = 24
"""Offset of the bit depth in a PNG file, whose header chunk always comes first."""
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


@dataclass(frozen=True)
class RewardRequest:
    """Verified images, and their prompts if the client sent any."""

    images: UInt8[np.ndarray, "rows 3 height width"] | Float32[np.ndarray, "rows 3 height width"]
    """[rows, 3, H, W] in 0..255, or in [0, 1]."""
    prompts: tuple[str, ...] | None
    """One per row."""

    def pixels(self) -> Float[Tensor, "rows 3 height width"]:
        """Return the images as float32 in [0, 1]."""
        images = torch.from_numpy(self.images)
        return from_uint8(images) if images.dtype == torch.uint8 else images


def encode_request(
    images: Float[Tensor, "rows 3 height width"], prompts: Sequence[str] | None, encoding: Encoding
) -> tuple[bytes, str]:
    """Write a request.

    Args:
        images: [rows, 3, H, W] in [0, 1]. In files NaN becomes black.
        prompts: One per row; None to send none.
        encoding: Of the images.

    Returns:
        The body, and its content type.

    Example:
        >>> body, content_type = encode_request(torch.rand(1, 3, 2, 2), ["a cat"], "png")
        >>> content_type, decode_request(body, content_type, Limits()).prompts
        ('application/json', ('a cat',))
    """
    if encoding == "safetensors":
        array = images.detach().to("cpu", torch.float32).contiguous().numpy()
        return save({"images": array}, None if prompts is None else {"prompts": json.dumps(list(prompts))}), SAFETENSORS
    files = []
    for pixels in to_uint8(images).permute(0, 2, 3, 1).cpu().numpy():  # [H, W, 3] each
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format=encoding, lossless=True)
        files.append(base64.b64encode(file.getvalue()).decode("ascii"))
    message = {"images": files} if prompts is None else {"images": files, "prompts": list(prompts)}
    return json.dumps(message).encode(), JSON


def decode_request(body: bytes, content_type: str, limits: Limits) -> RewardRequest:
    """Read a request that may be hostile.

    Args:
        body: As it came.
        content_type: Its header.
        limits: The largest request that is accepted.

    Returns:
        Its images and prompts.

    Raises:
        WireError: With status 400 if the body cannot be read, 413 if it is over a limit, 415 if it is of another type,
            422 if no reward can score its content.
    """
    if len(body) > limits.max_bytes:
        raise WireError(f"the body must have at most {limits.max_bytes} bytes, got {len(body)}.", 413)
    kind = content_type.partition(";")[0].strip().lower()
    if kind == SAFETENSORS:
        images, prompts = _read_safetensors(body, limits)
    elif kind == JSON:
        images, prompts = _read_json(body, limits)
    else:
        raise WireError(f"Content-Type must be {SAFETENSORS} or {JSON}, got {kind[:80]!r}.", 415)
    return RewardRequest(images, _check_prompts(prompts, len(images)))


def encode_rewards(rewards: Float[Tensor, " rows"]) -> dict[str, list[float | None]]:
    """Write an answer.

    Example:
        >>> encode_rewards(torch.tensor([0.5, torch.nan]))
        {'rewards': [0.5, None]}
    """
    return {"rewards": [value if math.isfinite(value) else None for value in rewards.float().tolist()]}


def decode_rewards(body: bytes, rows: int, *, low: float = -math.inf, high: float = math.inf) -> list[float]:
    """Read an answer that may be wrong.

    Args:
        body: As it came.
        rows: Number of rows of the request.
        low: Lowest possible reward.
        high: Highest possible reward.

    Returns:
        One number per row; NaN for rows that the server could not score.

    Raises:
        WireError: If it is no answer, has another number of rows, or a reward that is no number, not finite or out of
            range.

    Example:
        >>> decode_rewards(b'{"rewards": [0.5, null]}', 2)
        [0.5, nan]
        >>> decode_rewards(b'{"rewards": [NaN]}', 1)
        Traceback (most recent call last):
        ...
        realgen.serving.wire.WireError: the answer is no JSON: NaN is not.
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
            raise WireError(f"a reward must be a number from {low} to {high}, or null, got {str(reward)[:40]!r}.")
    return [math.nan if reward is None else float(reward) for reward in rewards]


def _load_json(text: bytes | str, name: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise WireError(f"{name} is no JSON: {str(error)[:80]}.", 400) from error


def _read_safetensors(body: bytes, limits: Limits) -> tuple[np.ndarray, Any]:
    try:
        tensors = dict(safetensors.deserialize(body))
    except safetensors.SafetensorError as error:
        raise WireError(f"the body is no safetensors: {str(error).splitlines()[0][:120]}.", 400) from error
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
    header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])  # has just been read by safetensors
    prompts = (header.get("__metadata__") or {}).get("prompts")  # safetensors takes null for no metadata
    return images.copy(), None if prompts is None else _load_json(prompts, "prompts")


def _read_json(body: bytes, limits: Limits) -> tuple[np.ndarray, Any]:
    message = _load_json(body, "the body")
    if not isinstance(message, dict) or not {"images"} <= set(message) <= {"images", "prompts"}:
        raise WireError('the body must be {"images": [...], "prompts": [...]}, the prompts if the reward needs them.')
    files = message["images"]
    if not isinstance(files, list) or not files or not all(isinstance(file, str) for file in files):
        raise WireError("images must be a list of base64 texts, at least one.")
    _check_size(len(files), 0, limits)
    pixels: list[np.ndarray] = []
    for file in files:
        pixels.append(_read_image(file, limits, len(files)))
        if pixels[-1].shape != pixels[0].shape:
            raise WireError("the images of one request must have one size.")
    return np.stack(pixels).transpose(0, 3, 1, 2), message.get("prompts")  # [rows, 3, H, W]


def _read_image(text: str, limits: Limits, rows: int) -> UInt8[np.ndarray, "height width 3"]:
    """Read one PNG or WebP file; its size is checked before it is unpacked, so a small file cannot fill the memory."""
    try:
        data = base64.b64decode(text, validate=True)
        image = Image.open(io.BytesIO(data), formats=("PNG", "WEBP"))
    except Exception as error:  # what Pillow raises on hostile bytes is open-ended
        raise WireError("an image is no base64 PNG or WebP file.", 400) from error
    _check_size(rows, rows * image.width * image.height, limits)
    deep = image.format == "PNG" and data[_PNG_BIT_DEPTH] != 8
    if image.mode != "RGB" or deep or getattr(image, "n_frames", 1) != 1:
        raise WireError(f"an image must be one frame of 8-bit RGB, got {image.format} {image.mode}.")
    try:
        return np.asarray(image)
    except Exception as error:  # as above
        raise WireError("an image is cut off or broken.", 400) from error


def _check_size(rows: int, pixels: int, limits: Limits) -> None:
    if rows > limits.max_images:
        raise WireError(f"a request must have at most {limits.max_images} images, got {rows}.", 413)
    if pixels > limits.max_pixels:
        raise WireError(f"the images must have at most {limits.max_pixels} pixels together, got {pixels}.", 413)


def _check_prompts(prompts: Any, rows: int) -> tuple[str, ...] | None:
    if prompts is None:
        return None
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
        raise WireError("prompts must be a list of texts.")
    if len(prompts) != rows:
        raise WireError(f"prompts must be as many as images, {rows}, got {len(prompts)}.")
    if any(len(prompt) > MAX_PROMPT_CHARACTERS for prompt in prompts):
        raise WireError(f"a prompt must have at most {MAX_PROMPT_CHARACTERS} characters.", 413)
    try:
        "".join(prompts).encode()
    except UnicodeEncodeError as error:  # half a surrogate pair, which JSON lets through
        raise WireError("prompts must be valid Unicode.") from error
    return tuple(prompts)
