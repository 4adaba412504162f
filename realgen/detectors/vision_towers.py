"""The vision towers of CLIP and DINOv3 (arXiv:2508.10104) as the detectors use them: configs, names, activation."""

from dataclasses import fields
from typing import Any, cast

import torch
from torch import Tensor, nn

from realgen.detectors.configs import DinoConfig, VisionConfig

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
"""The four linear maps of an attention block."""
SLOPE = 1.702
"""Of the quick GELU."""


def clip_config(vision_model: nn.Module) -> VisionConfig:
    """Return the config of a ``CLIPVisionModel``, or an older one's wrapper; ValueError without quick GELU."""
    config: Any = vision_model.config
    if config.hidden_act != "quick_gelu":
        raise ValueError(f"the CLIP tower's hidden_act must be 'quick_gelu', got {config.hidden_act!r}.")
    return VisionConfig(**{field.name: getattr(config, field.name) for field in fields(VisionConfig)})


def build_tower(config: VisionConfig) -> Any:
    """Return a randomly initialised transformers ``CLIPVisionModel``."""
    from transformers import CLIPVisionConfig, CLIPVisionModel  # seconds to import

    values = {field.name: getattr(config, field.name) for field in fields(VisionConfig)}
    return CLIPVisionModel(CLIPVisionConfig(**values))


def tower_state_dict(vision_model: nn.Module) -> dict[str, Tensor]:
    """Return the tower's weights as transformers >= 5 names them: without a ``vision_model.`` in front."""
    state = vision_model.state_dict().items()
    return {name.removeprefix("vision_model."): value for name, value in state if not name.endswith("position_ids")}


@torch.no_grad()
def merge_quick_gelu(network: nn.Module) -> None:
    """Merge the slope of every quick GELU into the linear maps around it, and apply the activation in place.

    The quick GELU is x sigmoid(1.702 x), and silu(x) = x sigmoid(x), so that
    fc2(quick_gelu(fc1(x))) = (fc2 / 1.702)(silu((1.702 fc1)(x))). No copy of the hidden layer, the largest tensor of a
    pass, is made: on a CPU the page faults of new memory cost more than the arithmetic. MLPs are known by ``fc1``,
    ``activation_fn`` (a quick GELU) and ``fc2``.
    """
    for module in network.modules():
        if all(hasattr(module, name) for name in ("fc1", "activation_fn", "fc2")):
            first, second = cast("nn.Linear", module.fc1), cast("nn.Linear", module.fc2)
            first.weight.mul_(SLOPE)
            first.bias.mul_(SLOPE)
            second.weight.div_(SLOPE)
            module.activation_fn = nn.SiLU(inplace=True)


DINO_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
"""The four linear maps of an attention block."""


def dino_config(vision_model: nn.Module) -> DinoConfig:
    """Return the config of a transformers ``DINOv3ViTModel``."""
    return DinoConfig(**{field.name: getattr(vision_model.config, field.name) for field in fields(DinoConfig)})


def build_dino(config: DinoConfig) -> Any:
    """Return a randomly initialised transformers ``DINOv3ViTModel``."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel  # seconds to import

    return DINOv3ViTModel(DINOv3ViTConfig(**{field.name: getattr(config, field.name) for field in fields(DinoConfig)}))
