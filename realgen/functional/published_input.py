"""The input of published networks, read from the configs of open_clip and timm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from realgen.functional.network_input import NetworkInput


def open_clip_input(preprocess: Mapping[str, Any]) -> NetworkInput:
    """Read the input that an open_clip model's evaluation transform makes of files from its ``preprocess_cfg``.

    Raises:
        ValueError: If ``resize_mode`` is another than ``shortest`` (shorter side to size, centre crop) or ``squash``
            (both sides to size), or ``interpolation`` is neither bicubic nor bilinear.

    Example:
        >>> half = {"size": 224, "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic"}
        >>> open_clip_input({**half, "resize_mode": "shortest"}).size
        (224, 224)
    """
    size, interpolation = preprocess["size"], preprocess["interpolation"]
    if preprocess["resize_mode"] not in ("shortest", "squash"):
        raise ValueError(f"resize_mode must be 'shortest' or 'squash', got {preprocess['resize_mode']!r}.")
    return NetworkInput(
        size=(size, size) if isinstance(size, int) else (size[0], size[1]),
        mean=_three(preprocess["mean"]),
        std=_three(preprocess["std"]),
        mode=_mode("bicubic" if interpolation == "random" else interpolation),  # random is for training
        keep_aspect=preprocess["resize_mode"] == "shortest",
    )


def timm_input(config: Mapping[str, Any]) -> NetworkInput:
    """Read the input that a timm model's evaluation transform makes of files from its data config.

    That is what ``timm.data.resolve_model_data_config`` returns.

    Raises:
        ValueError: If ``crop_mode`` is another than ``center`` or ``squash``, or ``interpolation`` is neither bicubic
            nor bilinear.

    Example:
        >>> config = {"input_size": (3, 224, 224), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 0.875}
        >>> timm_input({**config, "interpolation": "bicubic", "crop_mode": "center"}).resize_to
        (256, 256)
    """
    if config["crop_mode"] not in ("center", "squash"):
        raise ValueError(f"crop_mode must be 'center' or 'squash', got {config['crop_mode']!r}.")
    _, height, width = config["input_size"]
    return NetworkInput(
        size=(height, width),
        mean=_three(config["mean"]),
        std=_three(config["std"]),
        mode=_mode(config["interpolation"]),
        keep_aspect=config["crop_mode"] == "center",
        resize_to=(math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"])),
    )


def _mode(interpolation: str) -> Literal["bilinear", "bicubic"]:
    if interpolation == "bilinear":
        return "bilinear"
    if interpolation == "bicubic":
        return "bicubic"
    raise ValueError(f"interpolation must be 'bicubic' or 'bilinear', got {interpolation!r}.")


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)
