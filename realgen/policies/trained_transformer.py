"""What was trained of a transformer of diffusers, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from realgen.policies.lora import adapter_config, adapter_weights
from realgen.policies.whole_weights import gathered_weights


def export_trained(backbone: Any, transformer: nn.Module, directory: Path, *, adapters: bool) -> Path:
    """Write adapters or the whole transformer for plain diffusers. Every rank must call it; the first one writes.

    Returns the directory, made if missing: for ``load_lora_weights`` or ``from_pretrained``. Adapters have alpha = rank
    and their factor in B: ComfyUI's loader and others know no alpha but one beside each layer's weights.
    """
    first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    weights = gathered_weights(transformer, trained_only=adapters, keep=first)
    if first and adapters:
        config = adapter_config(transformer)
        factor = config["lora_alpha"] / config["r"]
        scaled = {n: w * factor if ".lora_B." in n else w for n, w in adapter_weights(weights).items()}
        backbone.save_adapter(directory, scaled, {**config, "lora_alpha": config["r"]})
    elif first:
        backbone.save_transformer(directory, weights)
    return directory
