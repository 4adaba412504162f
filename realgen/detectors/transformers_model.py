"""Models in transformers' format, in a folder or on the hub, loaded exactly or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from realgen.detectors.checkpoint import NAMES_SHOWN


def load_pretrained(kind: Any, pretrained: str, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    """Return a transformers model with every weight from the file; transformers would draw missing ones at random.

    Args:
        kind: A transformers model class.
        pretrained: Folder in transformers' format, or a hub id.
        dtype: Of the weights in memory.
        **settings: Of ``from_pretrained``.

    Returns:
        The model, on the CPU.

    Raises:
        ValueError: If there is no such model, it is broken or of another kind, or its weights do not fit its config.
    """
    where = {"local_files_only": Path(pretrained).is_dir()}
    try:
        # Another kind's config would be filled up with defaults, and its weights reported as missing.
        config, _ = kind.config_class.get_config_dict(pretrained, **where)
        if config.get("model_type") != kind.config_class.model_type:
            raise ValueError(f"its config.json has model_type {config.get('model_type')!r}.")
        model, report = kind.from_pretrained(
            pretrained, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **where, **settings
        )
    except Exception as error:  # broken files raise errors of many types
        raise ValueError(f"transformers cannot read {pretrained!r} as {kind.__name__}: {_first_line(error)}") from error
    entries = {"missing": "missing_keys", "unknown": "unexpected_keys", "of another shape": "mismatched_keys"}
    names = {what: sorted(_name(key) for key in report[entry]) for what, entry in entries.items()}
    found = [f"{what}: {', '.join(keys[:NAMES_SHOWN])}" for what, keys in names.items() if keys]
    if found:
        raise ValueError(f"{pretrained!r} does not fit {kind.__name__}; {'; '.join(found)}.")
    return model


def load_processor(kind: Any, pretrained: str, **settings: Any) -> Any:
    """Read a transformers tokenizer or processor.

    Args:
        kind: Its class.
        pretrained: Folder in transformers' format, or a hub id.
        **settings: Override its config.

    Returns:
        The tokenizer or processor.

    Raises:
        ValueError: If it cannot be read.
    """
    try:
        return kind.from_pretrained(pretrained, local_files_only=Path(pretrained).is_dir(), **settings)
    except (OSError, ValueError) as error:
        raise ValueError(f"transformers cannot read {pretrained!r} as {kind.__name__}: {_first_line(error)}") from error


def transformers_preprocess(processor: Any, pretrained: str) -> dict[str, Any]:
    """Translate the settings of a transformers ``CLIPImageProcessor`` into open_clip's ``preprocess_cfg``.

    Args:
        processor: The processor.
        pretrained: Its folder or hub id, for the message.

    Returns:
        ``size``, ``mean``, ``std``, ``interpolation`` and ``resize_mode``.

    Raises:
        ValueError: If its steps are not to resize the shorter side, crop the centre and normalise.
    """
    crop, shorter = processor.crop_size, processor.size["shortest_edge"]
    steps = (processor.do_resize, processor.do_center_crop, processor.do_rescale, processor.do_normalize)
    modes = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
    if not all(steps) or not crop["height"] == crop["width"] == shorter or processor.resample not in modes:
        raise ValueError(
            f"the processor of {pretrained!r} must resize the shorter side bicubically or bilinearly, cut out the "
            f"middle of the same size and normalise; got {processor.to_dict()}."
        )
    mean, std = processor.image_mean, processor.image_std
    return {
        "size": crop["height"],
        "mean": mean,
        "std": std,
        "interpolation": modes[int(processor.resample)],
        "resize_mode": "shortest",
    }


def _name(key: Any) -> str:
    """Return a weight's name in a loading report; mismatched weights come with their two shapes."""
    return key if isinstance(key, str) else str(key[0])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
