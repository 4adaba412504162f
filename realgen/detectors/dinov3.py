"""DINOv3's vision transformer (arXiv:2508.10104) as OmniAID uses it: its config and weights' names."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from torch import nn

from realgen.detectors.configs import DinoConfig

DINO_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
"""The four linear maps of an attention block."""


def dino_config(vision_model: nn.Module) -> DinoConfig:
    """Return the config of a transformers ``DINOv3ViTModel``."""
    return DinoConfig(**{field.name: getattr(vision_model.config, field.name) for field in fields(DinoConfig)})


def build_dino(config: DinoConfig) -> Any:
    """Return a randomly initialised transformers ``DINOv3ViTModel``."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel  # seconds to import

    return DINOv3ViTModel(DINOv3ViTConfig(**{field.name: getattr(config, field.name) for field in fields(DinoConfig)}))
