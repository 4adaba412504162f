"""Published state dicts: how their names differ from ours, and which network wrote a file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

from torch import Tensor

TRAINING_ONLY = frozenset(
    {"U_r", "S_r", "V_r", "weight_original_fnorm", "weight_main_fnorm", "position_ids", "inv_freq"}
)
"""Last parts of names in published files that scoring does not need: bases of the main parts, norms, constants."""
FAMILIES = {"encoder_layers.": "OmniAID on CLIP", "layer.": "OmniAID on DINOv3", "backbone.encoder.layers.": "Effort"}
"""Names of the layers, and the network that has them."""


def plain_name(name: str) -> str:
    """Return a published name as our networks have it.

    ``module.`` is left by data-parallel training, ``vision_model.`` by transformers before 5, which also kept DINOv3's
    layers one floor higher.
    """
    name = name.removeprefix("module.").replace("vision_model.", "")
    return re.sub(r"^feature_extractor\.layer\.", "feature_extractor.model.layer.", name)


@dataclass(frozen=True)
class Build:
    """The network that wrote a state dict, by the names and shapes in it."""

    family: str
    """One of ``FAMILIES``."""
    fields: Mapping[str, Any]
    """Those of its config that names and shapes tell."""

    def differences(self, config: object) -> list[str]:
        """Return the fields of the file that differ from a config."""
        given = {name: getattr(config, name, value) for name, value in self.fields.items()}
        return [
            f"{name} {value!r} (config: {given[name]!r})" for name, value in self.fields.items() if value != given[name]
        ]


def recognise(state: Mapping[str, Tensor]) -> Build | None:
    """Recognise a network by the plain names and shapes of its weights; None if no detector of ours has such names."""
    for prefix, family in FAMILIES.items():
        numbers = {int(found[1]) for name in state if (found := re.match(re.escape(prefix) + r"(\d+)\.", name))}
        if numbers:
            fields = {"num_hidden_layers": max(numbers) + 1, **_tower(state, prefix), **_experts(state)}
            if family != "Effort":
                two_towers = any(name.startswith("feature_extractor.") for name in state)
                fields["router_input"] = "frozen_tower" if two_towers else "patch_embeddings"
            return Build(family, fields)
    return None


def _tower(state: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """Return width, patch size and image size."""
    found: dict[str, Any] = {}
    for name, value in state.items():
        if name == "head.weight":
            found["hidden_size"] = value.shape[1]
        elif re.fullmatch(r"(backbone\.)?embeddings\.patch_embeddings?\.weight", name):
            found["patch_size"] = value.shape[-1]
        elif re.fullmatch(re.escape(prefix) + r"0\.mlp\.(fc1|up_proj)\.weight", name):
            found["intermediate_size"] = value.shape[0]
        elif name == "embeddings.register_tokens":
            found["num_register_tokens"] = value.shape[1]
    for name, value in state.items():
        if name.endswith("position_embedding.weight") and not name.startswith("feature_") and "patch_size" in found:
            found["image_size"] = isqrt(len(value) - 1) * found["patch_size"]
    return found


def _experts(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return number, rank and kind of the experts, and the router's numbers."""
    found: dict[str, Any] = {}
    for name, value in state.items():
        if name.endswith(".S_residual"):
            found["rank"] = len(value)
        if part := re.search(r"\.(S|lora_A)_experts\.(\d+)$", name):
            found["expert_type"] = "svd" if part[1] == "S" else "lora"
            found["rank"] = len(value)
            found["num_experts"] = max(int(part[2]) + 1, found.get("num_experts", 0))
    hidden, routed = (state.get(f"gating_network.network.{layer}.weight") for layer in (0, 2))
    if hidden is not None:
        found["router_hidden"] = len(hidden)
    if routed is not None and "num_experts" in found:
        found["hybrid"] = len(routed) < found["num_experts"]
    return found
