"""State dicts as the published training scripts write them, made from networks of ours."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from realgen.detectors.base import DetectorNetwork
from realgen.detectors.effort import SVDResidualLinear
from realgen.detectors.svd_experts import SVDExpertLinear


def published_state(network: DetectorNetwork, *, with_bases: bool = True) -> dict[str, Tensor]:
    """Names and buffers of the published classes.

    Args:
        network: Of ours, not merged.
        with_bases: Whether the file kept what only training uses: ``U_r``, ``V_r`` (Effort: ``S_r`` too) and the norm.
    """
    state = {}
    for name, value in network.state_dict().items():
        # The DINOv3 of transformers 4.57 had its layers at the top.
        state[name.replace("feature_extractor.model.layer.", "feature_extractor.layer.")] = value.clone()
    for name, module in network.named_modules():
        if with_bases and isinstance(module, SVDExpertLinear | SVDResidualLinear):
            kept = len(module.weight_main) - module.rank
            u, s, v = torch.linalg.svd(module.weight_main)
            state[f"{name}.U_r"], state[f"{name}.V_r"] = u[:, :kept].contiguous(), v[:kept].contiguous()
            if isinstance(module, SVDResidualLinear):
                state[f"{name}.S_r"] = s[:kept].contiguous()
            else:
                state[f"{name}.weight_original_fnorm"] = torch.linalg.matrix_norm(module.weight_main)
    if any(name.startswith("encoder_layers.") for name in state):
        tokens = len(state["embeddings.position_embedding.weight"])
        state["embeddings.position_ids"] = torch.arange(tokens).unsqueeze(0)
    return state


def published_file(network: DetectorNetwork, *, with_bases: bool = True, wrapped: str = "model") -> dict[str, Any]:
    """What a training script gives to ``torch.save``.

    Args:
        network: Of ours, not merged.
        with_bases: See ``published_state``.
        wrapped: ``model``: under that key, beside epoch and arguments, as OmniAID does; ``module``: bare, with the
            prefix of data-parallel training, as Effort does; ``both``.
    """
    state: dict[str, Any] = published_state(network, with_bases=with_bases)
    if wrapped in ("module", "both"):
        state = {f"module.{name}": value for name, value in state.items()}
    if wrapped in ("model", "both"):
        return {"model": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)}
    return state
