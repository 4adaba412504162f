"""Drawn text: whether an image shows the text that its prompt asks for, as an OCR engine reads it."""

import unicodedata
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.checks import check_at_least, first_line
from realgen.functional.images import to_uint8
from realgen.functional.network_input import check_images
from realgen.rewards.base import Reward
from realgen.types import Samples

LONGEST = 500  # characters asked for, as the distance takes the square of their number


class DrawnText(Reward):
    """max(0, 1 - edit distance / length of the text), the OCR reward of Flow-GRPO (arXiv:2505.05470); in [0, 1].

    The text is a field of the prompt's metadata, where the published code takes what stands in quotation marks. It
    counts as drawn, 1, as soon as it is part of what is read, so other text beside it costs nothing. White space, case
    and forms of one letter (NFKC) do not matter; published are spaces and case. Text of which the engine is less than
    half sure is not read. The engine is RapidOCR with PP-OCR models, on the CPU; the published one is PaddleOCR.

    ValueError if the extra ``ocr`` is not installed or a model is missing, as none is fetched; and, when scored, for a
    prompt whose field is no text of 1 to 500 characters.

    Args:
        field: Name of the field that holds the text to be drawn.
        models: Folder with one ``*_det_*.onnx`` and one ``*_rec_*.onnx`` of RapidOCR's version; null: its wheel's own.
        threads: CPU threads of the engine, at least 1.
    """

    def __init__(self, field: str = "text", models: str | None = None, threads: int = 1) -> None:
        check_at_least(1, threads=threads)
        self.field, self.threads, self.models = field, threads, _find_models(models)
        self._engine: Callable[..., Any] | None = None

    def overlaps(self, device: torch.device) -> bool:
        """Return whether the policy leaves the CPU free, which computes this."""
        return device.type != "cpu"

    def score(self, samples: Samples) -> Float[Tensor, " rows"]:
        """Return one number in [0, 1] per row [B]; NaN for an image with NaN."""
        check_images(samples.images)
        wanted = [self._wanted(*pair) for pair in zip(samples.prompts, samples.metadata, strict=True)]
        texts = [self.read(image) if image.isfinite().all() else None for image in samples.images]
        scores = [
            torch.nan if text is None else likeness(wanted[i // samples.group_size], text)
            for i, text in enumerate(texts)
        ]
        return torch.tensor(scores, device=samples.images.device)

    def read(self, image: Float[Tensor, "3 height width"]) -> str:
        """Return the text that the engine finds in an image in [0, 1], as ``plain`` returns it."""
        self._engine = self._engine or _start(self.models, self.threads)
        pixels = to_uint8(image).flip(0).permute(1, 2, 0).cpu().contiguous().numpy()  # [H, W, 3], blue first
        return plain("".join(getattr(self._engine(pixels), "txts", None) or ()))  # neither where nothing is found

    def _wanted(self, prompt: str, metadata: Mapping[str, Any]) -> str:
        text = metadata.get(self.field)
        wanted = plain(text) if isinstance(text, str) and len(text) <= LONGEST else ""
        if not 0 < len(wanted) <= LONGEST:  # one letter may stand for eighteen
            raise ValueError(f"field {self.field!r} of {prompt[:80]!r} must be a text of 1 to {LONGEST} characters.")
        return wanted


def plain(text: str) -> str:
    """Return a text without white space and case, its letters in their plainest form."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def likeness(wanted: str, read: str) -> float:
    """Return how much of a text was read, in [0, 1]; the distance is Levenshtein's, row by row."""
    if wanted in read or len(read) >= 2 * len(wanted):  # so many characters are too many
        return float(wanted in read)
    row = list(range(len(wanted) + 1))
    for number, letter in enumerate(read, start=1):
        corner, row[0] = row[0], number
        for i, other in enumerate(wanted, start=1):
            corner, row[i] = row[i], min(row[i] + 1, row[i - 1] + 1, corner + (letter != other))
    return max(0.0, 1 - row[-1] / len(wanted))


def _find_models(folder: str | None) -> dict[str, str]:
    package = find_spec("rapidocr")
    if package is None or package.origin is None or find_spec("onnxruntime") is None:
        raise ValueError("DrawnText needs the packages rapidocr and onnxruntime: pip install 'realgen[ocr]'.")
    place = Path(package.origin).parent / "models" if folder is None else Path(folder)
    models = {part: sorted(place.glob(f"*_{part.lower()}_*.onnx")) for part in ("Det", "Rec")}
    if not all(len(found) == 1 for found in models.values()):
        raise ValueError(f"models must be a folder with one *_det_*.onnx and one *_rec_*.onnx, got {str(place)!r}.")
    return {f"{part}.model_path": str(found[0]) for part, found in models.items()}


def _start(models: Mapping[str, str], threads: int) -> Callable[..., Any]:
    from rapidocr import RapidOCR  # seconds to import

    settings = {"EngineConfig.onnxruntime.intra_op_num_threads": threads, **models}
    try:
        return RapidOCR(params={"Global.log_level": "error", "Global.use_cls": False, **settings})
    except Exception as error:  # broken files raise errors of many types
        raise ValueError(f"rapidocr cannot read {', '.join(models.values())}: {first_line(error)}") from error
