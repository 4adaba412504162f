"""What a vision-language model costs that looks at one image: Qwen2.5-VL, behind Forensic-Chat and written ratings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from realgen.planning.meter import Work, add, metered, num_bytes
from realgen.planning.silence import silence

QWEN25_VL_7B: Mapping[str, Any] = {
    "tie_word_embeddings": False,
    "text_config": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "max_window_layers": 28,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
}
"""The measures in ``config.json`` of Qwen/Qwen2.5-VL-7B-Instruct, which the published judges are tuned from."""

MIN_PIXELS, MAX_PIXELS = 56 * 56, 28 * 28 * 16384
"""Areas that Qwen2.5-VL's own preprocessor scales images to, where nothing else is said."""
TEMPLATE_TOKENS, LETTERS_PER_TOKEN = 32, 4
"""Of a chat's frame, and of English; the image has many more tokens."""


@dataclass(frozen=True)
class VlmCost:
    """What one image costs."""

    image: Work
    """FLOPs."""
    traffic: float
    """Bytes of weights that are read to write the answer, an image's share."""
    memory: int
    """Bytes of weights."""
    note: str
    """What was taken for granted."""


def vlm_cost(
    pretrained: str,
    *,
    height: int,
    width: int,
    dtype: str,
    text: str,
    written_tokens: int = 0,
    batch_size: int = 1,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> VlmCost:
    """Count the reading of an image and a question, and the writing of an answer.

    Writing reads all weights once for each token, for a whole batch; its attention to what was read is left out.

    Args:
        pretrained: Folder or hub id. Where its ``config.json`` is not on this machine, the model is taken for a
            Qwen2.5-VL-7B, and the note says so.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        dtype: Of weights and computation.
        text: The question.
        written_tokens: Of the answer; 0 if its first logits are enough.
        batch_size: Images that are written about together.
        min_pixels: Smallest area that images are scaled up to; the preprocessor's own by default.
        max_pixels: Largest area that images are scaled down to; the preprocessor's own by default.

    Returns:
        The cost.

    Raises:
        ValueError: If the config is not one of a Qwen2.5-VL.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration  # seconds to import
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    folder = _folder(pretrained)
    measures = QWEN25_VL_7B if folder is None else Qwen2_5_VLConfig.get_config_dict(folder)[0]
    kind = measures.get("model_type", Qwen2_5_VLConfig.model_type)
    if kind != Qwen2_5_VLConfig.model_type:
        raise ValueError(f"{pretrained!r} is no Qwen2.5-VL: its config.json has model_type {kind!r}.")
    config = Qwen2_5_VLConfig.from_dict(dict(measures))
    with silence(), torch.device("meta"):
        model: Any = Qwen2_5_VLForConditionalGeneration(config).to(getattr(torch, dtype)).eval()
    eye, mind = model.base_model.visual, model.base_model.language_model
    side = config.vision_config.patch_size * config.vision_config.spatial_merge_size
    limits = {"min_pixels": min_pixels or MIN_PIXELS, "max_pixels": max_pixels or MAX_PIXELS}
    rows, columns = (length // side for length in smart_resize(height, width, factor=side, **limits))
    tokens = rows * columns + TEMPLATE_TOKENS + len(text) // LETTERS_PER_TOKEN
    with torch.no_grad(), metered() as read:
        embedded = torch.empty(1, tokens, mind.config.hidden_size, dtype=model.dtype, device="meta")
        mind(inputs_embeds=embedded, position_ids=torch.zeros(3, 1, tokens, dtype=torch.long, device="meta"))
    rate = "fp32" if model.dtype == torch.float32 else "bf16"
    written = {rate: 2.0 * written_tokens * _maps(mind, model.lm_head)}
    return VlmCost(
        image=add([{rate: _seeing(eye, rows * columns, config.vision_config)}, dict(read.work), written]),
        traffic=written_tokens * num_bytes([*mind.parameters(), model.lm_head.weight]) / batch_size,
        memory=num_bytes([*model.parameters(), *model.buffers()]),
        note="" if folder else f"{pretrained!r} is not on this machine and was counted as a Qwen2.5-VL-7B",
    )


def _folder(pretrained: str) -> Path | None:
    folder = Path(pretrained)
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(pretrained, "config.json")
    except HFValidationError:
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def _maps(*modules: nn.Module) -> int:
    """Weights of linear maps."""
    return sum(part.weight.numel() for module in modules for part in module.modules() if isinstance(part, nn.Linear))


def _seeing(eye: Any, tokens: int, config: Any) -> float:
    """FLOPs of the vision tower, whose windows are cut by numbers that the meta device does not have.

    Args:
        eye: The tower.
        tokens: That it answers with.
        config: Its measures.
    """
    patches = tokens * config.spatial_merge_size**2
    window = (config.window_size // config.patch_size) ** 2
    pixels = config.in_channels * config.temporal_patch_size * config.patch_size**2
    maps = patches * (_maps(eye.blocks) + pixels * config.hidden_size) + tokens * _maps(eye.merger)
    everywhere = len(config.fullatt_block_indexes)
    seen = everywhere * patches + (config.depth - everywhere) * min(window, patches)
    return 2.0 * maps + 4.0 * patches * seen * config.hidden_size
