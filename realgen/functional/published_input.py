"""The input of published networks, read from the configs of open_clip, timm and transformers."""

import math
from collections.abc import Mapping
from typing import Any

from realgen.functional.network_input import NetworkInput


def open_clip_input(preprocess: Mapping[str, Any]) -> NetworkInput:
    """Read the input that an open_clip model's evaluation transform makes of files from its ``preprocess_cfg``.

    ValueError if ``resize_mode`` is another than ``shortest`` (shorter side to size, centre crop) or ``squash`` (both
    sides to size), or ``interpolation`` is neither bicubic nor bilinear.
    """
    if preprocess["interpolation"] == "random":  # for training
        preprocess = {**preprocess, "interpolation": "bicubic"}
    size = preprocess["size"]
    return NetworkInput(
        size=(size, size) if isinstance(size, int) else (size[0], size[1]),
        keep_aspect=_chosen(preprocess, "resize_mode", "shortest", "squash") == "shortest",
        mode=_chosen(preprocess, "interpolation", "bicubic", "bilinear"),
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
    )


def timm_input(config: Mapping[str, Any]) -> NetworkInput:
    """Read the input that a timm model's evaluation transform makes of files from its data config.

    That is what ``timm.data.resolve_model_data_config`` returns. ValueError if ``crop_mode`` is another than ``center``
    or ``squash``, or ``interpolation`` is neither bicubic nor bilinear.
    """
    _, height, width = config["input_size"]
    return NetworkInput(
        size=(height, width),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        mode=_chosen(config, "interpolation", "bicubic", "bilinear"),
        keep_aspect=_chosen(config, "crop_mode", "center", "squash") == "center",
        resize_to=(math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"])),
    )


def processor_input(processor: Any, pretrained: str) -> NetworkInput:
    """Read a transformers ``CLIPImageProcessor``'s input; ValueError for other steps than open_clip's ``shortest``."""
    crop, shorter = processor.crop_size, processor.size["shortest_edge"]
    steps = (processor.do_resize, processor.do_center_crop, processor.do_rescale, processor.do_normalize)
    modes: dict[Any, Any] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
    if not all(steps) or not crop["height"] == crop["width"] == shorter or processor.resample not in modes:
        raise ValueError(
            f"the processor of {pretrained!r} must resize the shorter side bicubically or bilinearly, cut out the "
            f"middle of the same size and normalise; got {processor.to_dict()}."
        )
    mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    return NetworkInput((shorter, shorter), mean, std, modes[int(processor.resample)])


def _chosen(config: Mapping[str, Any], name: str, *allowed: str) -> Any:
    """Return a setting; raise ValueError if it is not allowed."""
    if config[name] not in allowed:
        raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, got {config[name]!r}.")
    return config[name]
