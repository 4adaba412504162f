"""What a vision-language model costs that looks at one image: Qwen2.5-VL, behind Forensic-Chat and written ratings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import nn

from realgen.logging_filters import errors_only
from realgen.planning.architecture import find_folder
from realgen.planning.meter import Work, add, metered, num_bytes

TEMPLATE_TOKENS, LETTERS_PER_TOKEN = 32, 4
"""Of a chat's frame, and of English, where no tokenizer is at hand; the image has many more tokens."""


@dataclass(frozen=True)
class VlmCost:
    """What one image costs."""

    image: Work
    """FLOPs."""
    traffic: float
    """Bytes of weights that are read to write the answers about one batch of images."""
    memory: int
    """Bytes of weights."""
    note: str
    """What was taken for granted."""


class Reading(NamedTuple):
    """What the model reads."""

    tokens: int
    """Of image, question and the chat's frame."""
    patches: int
    """Of the image, before they are merged into tokens."""


def vlm_cost(
    pretrained: str,
    *,
    height: int,
    width: int,
    dtype: str,
    question: str,
    written_tokens: int = 0,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> VlmCost:
    """Count the reading of an image and a question, and the writing of an answer.

    Reading gives the first token; each further one reads all weights once for a whole batch.

    Args:
        pretrained: Folder or hub id. Where its ``config.json`` is not on this machine, the model is taken for a
            Qwen2.5-VL-7B, and the note says so.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        dtype: Of weights and computation.
        question: The text beside the image.
        written_tokens: Of the answer; 0 if the logits of its first are enough.
        min_pixels: Smallest area that images are scaled up to; the processor's own by default.
        max_pixels: Largest area that images are scaled down to; the processor's own by default.

    Returns:
        The cost.

    Raises:
        ValueError: If the files of the model are there and are not those of a Qwen2.5-VL, or cannot be read.
    """
    try:
        return _count(pretrained, height, width, dtype, question, written_tokens, min_pixels, max_pixels)
    except Exception as error:  # broken files make it stumble in many ways
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{pretrained!r}: {cause}") from error


def _count(
    pretrained: str,
    height: int,
    width: int,
    dtype: str,
    question: str,
    written_tokens: int,
    min_pixels: int | None,
    max_pixels: int | None,
) -> VlmCost:
    from transformers import Qwen2_5_VLForConditionalGeneration  # seconds to import

    folder, facts = find_folder(pretrained, "config.json"), _published()
    config = _config(facts["config"] if folder is None else folder)
    with errors_only(), torch.device("meta"):
        model: Any = Qwen2_5_VLForConditionalGeneration(config).to(getattr(torch, dtype)).eval()
    eye, mind = model.base_model.visual, model.base_model.language_model
    limits = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
    with errors_only():
        read = None if folder is None else _read(folder, question, height, width, limits)
    notes = []
    if folder is None:
        notes.append(f"{pretrained!r} is not on this machine and was counted as a Qwen2.5-VL-7B")
    elif read is None:
        notes.append(f"{pretrained!r} has no processor on this machine, and its tokens were guessed")
    if read is None:
        area = (
            facts["min_pixels"] if min_pixels is None else min_pixels,
            facts["max_pixels"] if max_pixels is None else max_pixels,
        )
        read = _guess(config.vision_config, question, height, width, area)
    with torch.no_grad(), metered() as meter:
        embedded = torch.empty(1, read.tokens, mind.config.hidden_size, dtype=model.dtype, device="meta")
        mind(inputs_embeds=embedded, position_ids=torch.zeros(3, 1, read.tokens, dtype=torch.long, device="meta"))
    rate = "fp32" if model.dtype == torch.float32 else "bf16"
    further = max(0, written_tokens - 1)
    seen = (
        further * read.tokens + further * (further + 1) / 2
    )  # by each further token: what was read, and what was written
    attention = 4.0 * seen * mind.config.hidden_size * mind.config.num_hidden_layers
    written = 2.0 * (further * _maps(mind) + written_tokens * _maps(model.lm_head)) + attention
    return VlmCost(
        image=add([{rate: _seeing(eye, read.patches, config.vision_config) + written}, dict(meter.work)]),
        traffic=float(further * model.dtype.itemsize * _maps(mind, model.lm_head)),
        memory=num_bytes([*model.parameters(), *model.buffers()]),
        note=", ".join(notes),
    )


def _published() -> dict[str, Any]:
    file = files("realgen.planning").joinpath("judges", "qwen25_vl_7b.yaml")
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def _config(source: Mapping[str, Any] | Path) -> Any:
    from transformers import Qwen2_5_VLConfig

    measures = Qwen2_5_VLConfig.get_config_dict(source)[0] if isinstance(source, Path) else dict(source)
    kind = measures.get("model_type")
    # Any other config would be filled up with the defaults, which are those of a 72B model.
    if kind != Qwen2_5_VLConfig.model_type:
        raise ValueError(f"no Qwen2.5-VL, its config.json has model_type {kind!r}.")
    return Qwen2_5_VLConfig.from_dict(measures)


def _read(folder: Path, question: str, height: int, width: int, limits: Mapping[str, int | None]) -> Reading | None:
    """What the model's own processor makes of it; None where it is not beside the config."""
    if not any((folder / name).is_file() for name in ("processor_config.json", "preprocessor_config.json")):
        return None
    from transformers import AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
    given = {name: limit for name, limit in limits.items() if limit is not None}
    processor.image_processor.size = {**dict(processor.image_processor.size), **given}
    content = [{"type": "image"}, {"type": "text", "text": question}]
    template = processor.chat_template or processor.tokenizer.chat_template
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], chat_template=template, tokenize=False, add_generation_prompt=True
    )
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    encoded = processor(text=[prompt], images=[image], return_tensors="pt")
    return Reading(encoded["input_ids"].shape[1], int(encoded["image_grid_thw"].prod()))


def _guess(vision: Any, question: str, height: int, width: int, area: tuple[int, int]) -> Reading:
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    side = vision.patch_size * vision.spatial_merge_size
    rows, columns = (
        length // side for length in smart_resize(height, width, factor=side, min_pixels=area[0], max_pixels=area[1])
    )
    text = TEMPLATE_TOKENS + len(question) // LETTERS_PER_TOKEN
    return Reading(rows * columns + text, rows * columns * vision.spatial_merge_size**2)


def _maps(*modules: nn.Module) -> int:
    """Weights of linear maps."""
    return sum(part.weight.numel() for module in modules for part in module.modules() if isinstance(part, nn.Linear))


def _seeing(eye: Any, patches: int, config: Any) -> float:
    """FLOPs of the vision tower, whose windows are cut by numbers that the meta device does not have."""
    window = (config.window_size // config.patch_size) ** 2
    pixels = config.in_channels * config.temporal_patch_size * config.patch_size**2
    tokens = patches // config.spatial_merge_size**2
    maps = patches * (_maps(eye.blocks) + pixels * config.hidden_size) + tokens * _maps(eye.merger)
    everywhere = len(config.fullatt_block_indexes)
    seen = everywhere * patches + (config.depth - everywhere) * min(window, patches)
    return 2.0 * maps + 4.0 * patches * seen * config.hidden_size
