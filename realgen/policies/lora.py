"""Low-rank adapters (LoRA, arXiv:2106.09685) on a frozen transformer, through peft."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, no_type_check

import torch
from torch import Tensor, nn
from torch.nn import functional

from realgen.checks import check_at_least
from realgen.parallel import is_sharded
from realgen.policies.trained_adapters import find_adapters, load_adapters

ADAPTER = "default"
"""Name of the trained adapter in peft's tables."""


@dataclass(frozen=True)
class LoRA:
    """Trains W + (alpha / rank) B A instead of W.

    A and B are float32 at rest, and so are their gradients, the optimizer's state and the averages: small updates would
    be lost in bfloat16. Each use rounds them to the type of the layer's input, so a model in bfloat16 multiplies in
    bfloat16 alone; a model in float32 is what it would be without. On 8 H200 the plan gives FLUX's iteration 571
    seconds so, and 579 with adapters that multiply in TF32, whose raised copies of each input it does not count.

    Args:
        rank: Columns of B and rows of A, at least 1.
        alpha: Scale of the update; alpha / rank multiplies B A.
        targets: Linear layers to adapt, by the end of their names; ``None``: the backbone's own choice.
        init: How A starts (B starts at zero, so the policy starts as the reference): "gaussian" with std 1 / rank,
            as RealGen does, or "kaiming", peft's default.
        seed: Of that start. Fixed, so that all ranks and a resumed run start from the same adapters.
        pretrained: Directory that ``export`` wrote, whose update the adapters start from instead, whatever ``alpha``
            is; ``rank`` and ``targets`` must be those of training. The reference is the model without adapters.
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
            own = {"rank": self.rank, "targets": self.targets and sorted(self.targets)}
            for name, value in own.items():
                if value is not None and value != (given := getattr(trained, name)):
                    raise ValueError(f"{name} must be that of pretrained {self.pretrained!r}, {given}, got {value}.")

    def attach(self, transformer: Any, default_targets: Sequence[str]) -> None:
        """Freeze a model and add adapters to ``targets``, or the backbone's; ValueError if one names no layer."""
        from peft import LoraConfig

        targets = list(default_targets) if self.targets is None else self.targets
        names = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
        for target in targets:  # peft ignores one that matches nothing, as long as another one matches
            if not any(name == target or name.endswith(f".{target}") for name in names):
                endings = {".".join(name.split(".")[-k:]) for name in names for k in (1, 2)}
                near = difflib.get_close_matches(target, sorted(endings), n=3)
                hint = f"; near it are {', '.join(near)}" if near else ""
                kind = type(transformer).__name__
                raise ValueError(f"targets: no linear layer of {kind} is called {target!r}{hint}.")
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules=targets,
            init_lora_weights="gaussian" if self.init == "gaussian" else True,
            task_type="CAUSAL_LM" if hasattr(transformer, "generate") else None,  # for PEFT's readers of the export
        )
        config.target_modules = sorted(targets)  # not peft's set: every process is to export the same file
        transformer.requires_grad_(False)
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(self.seed)
            transformer.add_adapter(config, ADAPTER)
        _cast_at_use(transformer)
        if self.pretrained is not None:
            load_adapters(transformer, find_adapters(self.pretrained), ADAPTER, scale=self.alpha / self.rank)


class CastLinear(nn.Linear):
    """A linear layer without bias whose weight is rounded to its input's type at each use."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight = weight

    @no_type_check  # the tests' checks of shapes would be traced into compiled blocks, and make graphs of their own
    def forward(self, input: Tensor) -> Tensor:
        """Multiply [..., in_features] with the weight; the result has the input's type."""
        return functional.linear(input, self.weight.to(input.dtype))


def _cast_at_use(transformer: nn.Module) -> None:
    """Keep the adapters in float32, and let them compute in the type of the layer that they adapt."""
    from peft.tuners.lora import LoraLayer

    for layer in transformer.modules():
        if isinstance(layer, LoraLayer):
            layer.cast_input_dtype_enabled = False  # peft would raise the whole input to float32
            for factor in (layer.lora_A, layer.lora_B):
                weight = factor[ADAPTER].weight
                weight.data = weight.data.float()
                if layer.get_base_layer().weight.dtype != torch.float32:
                    factor[ADAPTER] = CastLinear(weight)


@contextmanager
def merged(network: Any) -> Iterator[None]:
    """Inside this context W + (alpha / rank) B A, added in float32, stands in place of W, and no adapter is run.

    Exact but for rounding, about 1e-7 of the output; adapters have no gradient. W comes back to the bit.

    Raises:
        ValueError: If its weights or products are not float32, which would round the update away, or are sharded.
    """
    from peft.tuners.lora import LoraLayer

    layers = [layer for layer in network.modules() if isinstance(layer, LoraLayer)]
    frozen = [layer.get_base_layer().weight for layer in layers]
    kinds = sorted({str(weight.dtype) for weight in frozen} - {"torch.float32", "torch.float64"})
    kinds += ["autocast"] if torch.is_autocast_enabled(frozen[0].device.type) else []
    kinds += ["sharded weights"] if is_sharded(network) else []
    if kinds:
        raise ValueError(f"merge_adapters=true needs whole float32 weights and no autocast, got {', '.join(kinds)}.")
    for layer, weight in zip(layers, frozen, strict=True):
        layer.get_base_layer().weight = nn.Parameter(weight + layer.get_delta_weight(ADAPTER), requires_grad=False)
    network.disable_adapters()
    try:
        yield
    finally:
        network.enable_adapters()
        for layer, weight in zip(layers, frozen, strict=True):
            layer.get_base_layer().weight = weight


def adapter_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the adapter's part of weights under diffusers' names; peft's own function would want the module."""
    return {name.replace(f".{ADAPTER}.", "."): weight for name, weight in weights.items() if ".lora_" in name}


def adapter_config(transformer: Any) -> dict[str, Any]:
    """Return rank, alpha and targets of the adapter, as diffusers stores them beside its weights."""
    return transformer.peft_config[ADAPTER].to_dict()
