"""Low-rank adapters (LoRA, arXiv:2106.09685) on a frozen transformer, through peft."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from realgen.checks import check_at_least
from realgen.policies.trained_adapters import find_adapters, load_adapters

ADAPTER = "default"
"""Name of the trained adapter in peft's tables."""


@dataclass(frozen=True)
class LoRA:
    """Trains W + (alpha / rank) B A instead of W, in float32 whatever the type of W.

    Args:
        rank: Columns of B and rows of A, at least 1.
        alpha: Scale of the update; alpha / rank multiplies B A.
        targets: Linear layers to adapt, by the end of their names; ``None``: the backbone's own choice.
        init: How A starts (B starts at zero, so the policy starts as the reference): "gaussian" with std 1 / rank,
            as RealGen does, or "kaiming", peft's default.
        seed: Of that start. Fixed, so that all ranks and a resumed run start from the same adapters.
        pretrained: Directory that ``export`` wrote, whose weights the adapters start from instead; ``rank``, ``alpha``
            and ``targets`` must be those that they were trained with. The reference is the model without adapters.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: list[str] | None = None
    init: Literal["gaussian", "kaiming"] = "gaussian"
    seed: int = 0
    pretrained: str | None = None

    def __post_init__(self) -> None:
        check_at_least(1, rank=self.rank)
        if not self.alpha > 0:
            raise ValueError(f"alpha must be above 0, got {self.alpha}.")
        if self.targets is not None and not self.targets:
            raise ValueError("targets must name at least one layer, got []; null takes the backbone's own choice.")
        if self.pretrained is not None:
            trained = find_adapters(self.pretrained)
            own = {"rank": self.rank, "alpha": self.alpha, "targets": self.targets and sorted(self.targets)}
            for name, value in own.items():
                if value is not None and value != (given := getattr(trained, name)):
                    raise ValueError(f"{name} must be that of pretrained {self.pretrained!r}, {given}, got {value}.")

    def attach(self, transformer: Any, default_targets: Sequence[str]) -> None:
        """Freeze a diffusers model and add adapters to it.

        Args:
            transformer: A diffusers model (anything with ``add_adapter``).
            default_targets: The backbone's choice, used where ``targets`` is ``None``.

        Raises:
            ValueError: If a target names no layer of the transformer, or ``pretrained`` does not fit it.
        """
        from peft import LoraConfig

        targets = list(default_targets) if self.targets is None else self.targets
        _check_targets(transformer, targets)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules=targets,
            init_lora_weights="gaussian" if self.init == "gaussian" else True,
        )
        transformer.requires_grad_(False)
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(self.seed)
            transformer.add_adapter(config, ADAPTER)
        for parameter in transformer.parameters():
            if parameter.requires_grad:  # small updates would be lost in bfloat16
                parameter.data = parameter.data.float()
        if self.pretrained is not None:
            load_adapters(transformer, find_adapters(self.pretrained).file, ADAPTER)


def adapter_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the adapter's part of a transformer's weights, under diffusers' names.

    By name, not by ``get_peft_model_state_dict``, which finds none of its layers inside FSDP1's wrappers.
    """
    return {name.replace(f".{ADAPTER}.", "."): weight for name, weight in weights.items() if ".lora_" in name}


def adapter_config(transformer: Any) -> dict[str, Any]:
    """Return rank, alpha and targets of the adapter, as diffusers stores them beside its weights."""
    return transformer.peft_config[ADAPTER].to_dict()


def _check_targets(transformer: nn.Module, targets: Sequence[str]) -> None:
    """Raise ValueError for a target that matches nothing, which peft ignores as long as another one matches."""
    names = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            endings = {".".join(name.split(".")[-k:]) for name in names for k in (1, 2)}
            near = difflib.get_close_matches(target, sorted(endings), n=3)
            hint = f"; near it are {', '.join(near)}" if near else ""
            raise ValueError(f"targets: no linear layer of {type(transformer).__name__} is called {target!r}{hint}.")
