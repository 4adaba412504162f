"""FLOPs and memory of code that runs on the meta device, where tensors have shapes and types but no numbers."""

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import (
    FlopCounterMode,
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
    shape_wrapper,
)

Work = Mapping[str, float]
"""FLOPs by the rate at which a GPU does them: ``bf16``, ``fp32``, or ``tf32`` for convolutions in float32."""


def add(parts: Iterable[tuple[Work, float | int]]) -> dict[str, float]:
    """Add up several works, each as often as its number says."""
    found: dict[str, float] = {}
    for work, number in parts:
        for rate, flops in work.items():
            found[rate] = found.get(rate, 0.0) + flops * number
    return found


def rounded(work: Work) -> dict[str, float]:
    """Return the same work in bfloat16."""
    return {"bf16": total(work)}


_ATEN = torch.ops.aten
_CPU_ATTENTION: Mapping[Any, Any] = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: lambda *args, **_: sdpa_flop_count(*args[:3]),
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: lambda *args, **_: sdpa_backward_flop_count(*args[:4]),
}
"""FLOPs by the shapes of the arguments. PyTorch 2.11 counts none for these two."""
_FORMULAS = {**{operator: shape_wrapper(formula) for operator, formula in _CPU_ATTENTION.items()}, **flop_registry}


def flop_counter() -> FlopCounterMode:
    """Make PyTorch's own silent counter of FLOPs, which counts a CPU's attention with every version of PyTorch."""
    missing = {operator: formula for operator, formula in _CPU_ATTENTION.items() if operator not in flop_registry}
    return FlopCounterMode(display=False, custom_mapping=missing)


class Meter(TorchDispatchMode):
    """Count FLOPs by PyTorch's own formulas (``torch.utils.flop_counter``), and the bytes that live at the same time.

    Only tensors made inside count as memory, not those made before (weights, inputs), nor buffers inside a kernel, nor
    what an allocator cannot use.
    """

    _answers: ClassVar[dict[Any, tuple[str, float, Any]]] = {}
    """Rate, FLOPs and output by operator and layout: blocks are alike, and PyTorch finds outputs in Python, slowly."""

    def __init__(self) -> None:
        super().__init__()
        self.work: dict[str, float] = {}
        """FLOPs so far, by rate."""
        self.held = 0
        """Bytes that live now."""
        self.peak = 0
        """Most bytes that have lived at the same time."""
        self._known: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        call = func, _layout(args), _layout(kwargs)
        rate, flops, answer = self._answers.get(call, ("", 0.0, None))
        inputs: list[Tensor] = []
        if answer is not None:
            output = _like(answer)
        else:
            output = func(*args, **kwargs)
            inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            if (formula := _FORMULAS.get(func._overloadpacket)) is not None:
                rate, flops = _rate(func, inputs), formula(*args, **kwargs, out_val=output)
            if call not in self._answers:
                self._answers[call] = rate, flops, _like(output) if _is_like(output, inputs) else None
        if flops:
            self.work[rate] = self.work.get(rate, 0.0) + flops
        self._follow(inputs, output)
        return output

    def _follow(self, inputs: list[Tensor], output: Any) -> None:
        """Count new storages until they are freed."""
        old = {tensor.untyped_storage()._cdata for tensor in inputs}
        for tensor in tree_leaves(output):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in old or key in self._known:
                continue
            self._known[key] = storage.nbytes()
            self.held += storage.nbytes()
            weakref.finalize(storage, self._forget, key)
        self.peak = max(self.peak, self.held)

    def _forget(self, key: int) -> None:
        self.held -= self._known.pop(key)


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute attention without the matrix of weights, as a GPU's kernels do; on meta tensors PyTorch would make it.

    The operator below is the CPU's, but has the FLOPs of the others and keeps the same tensors for the backward pass. A
    mask changes neither.
    """
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = (part.repeat_interleave(repeats, dim=-3) for part in (key, value))
    parts = [part.unsqueeze(0) if query.dim() == 3 else part for part in (query, key, value)]
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    output = attend(*parts, dropout_p, is_causal, scale=scale)[0]
    return output.squeeze(0) if query.dim() == 3 else output


def _rate(func: Any, inputs: list[Tensor]) -> str:
    if inputs[0].dtype in (torch.bfloat16, torch.float16):
        return "bf16"
    return "tf32" if "conv" in func._overloadpacket.__name__ else "fp32"


def _layout(value: Any) -> Any:
    """Return what an operator on the meta device sees of an argument, to look it up by."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, list | tuple):
        return tuple(map(_layout, value))
    return tuple(map(_layout, value.items())) if isinstance(value, dict) else (type(value), value)


def _like(output: Any) -> Any:
    """Make new tensors of the same layout; ``torch.empty_like`` takes ten times longer on the meta device."""
    if not isinstance(output, Tensor):
        return tuple(map(_like, output))
    return torch.empty_strided(output.shape, output.stride(), dtype=output.dtype, device="meta")


def _is_like(output: Any, inputs: list[Tensor]) -> bool:
    """Whether the inputs' layout decides the output: tensors of their own, with nothing around them."""
    old = {tensor.untyped_storage()._cdata for tensor in inputs}
    return all(tensor.is_meta or tensor.dim() == 0 for tensor in inputs) and all(
        isinstance(new, Tensor)
        and new.is_meta
        and new.untyped_storage()._cdata not in old
        and new.untyped_storage().nbytes() == _like(new).untyped_storage().nbytes()
        for new in (output if isinstance(output, tuple) else (output,))
    )


@contextmanager
def metered() -> Iterator[Meter]:
    """Yield a meter that counts everything inside this context, backward passes included."""
    # Not a TorchFunctionMode: what gradient checkpointing computes again in the backward pass would escape it.
    with patch.object(F, "scaled_dot_product_attention", _fused_attention), Meter() as meter:
        yield meter


def total(work: Work) -> float:
    """Return the FLOPs at all rates together."""
    return sum(work.values(), 0.0)


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of tensors on any device."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
