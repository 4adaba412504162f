"""What PyTorch does in C++ by its own idea of a tensor's device, done again in Python for the shadow device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._pytree import tree_map

from tests.helpers.shadow_device import GPU, ShadowMode, ShadowTensor, note_wait

_attention = F.scaled_dot_product_attention
_tensor, _to, _pin_memory = torch.tensor, Tensor.to, Tensor.pin_memory


class _Stream:
    device = GPU

    def record_event(self) -> _Stream:
        return self

    def synchronize(self) -> None:
        note_wait("a stream")


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The formula: of the fused kernels' choice C++ makes its own device's."""
    if not isinstance(query, ShadowTensor):
        return _attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if enable_gqa:
        copies = query.shape[-3] // key.shape[-3]
        key, value = (part.repeat_interleave(copies, -3, output_size=query.shape[-3]) for part in (key, value))
    scores = (query * (scale or query.shape[-1] ** -0.5)) @ key.transpose(-1, -2)
    if is_causal:
        causal = torch.ones(scores.shape[-2:], dtype=torch.bool, device=GPU).tril()
        scores = scores.masked_fill(~causal, -torch.inf)
    if attn_mask is not None:
        masked = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if masked else scores + attn_mask
    return scores.softmax(-1).nan_to_num(0.0) @ value


def pad_sequence(sequences: Any, batch_first: bool = True, padding_value: float = 0.0, **_: Any) -> Tensor:
    assert batch_first
    longest = max(map(len, sequences))
    padding = ((0, 0) * (row.ndim - 1) + (0, longest - len(row)) for row in sequences)
    return torch.stack([F.pad(row, each, value=padding_value) for row, each in zip(sequences, padding, strict=True)])


def tensor(data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, **_: Any) -> Tensor:
    def number(value: Any) -> Any:
        return value.item() if isinstance(value, ShadowTensor) else value

    # Not torch.get_default_device(), which makes a tensor to learn the number of a device without one.
    contexts = [mode.device for mode in _get_current_function_mode_stack() if isinstance(mode, DeviceContext)]
    device = torch.device(device or (contexts[-1] if contexts else "cpu"))
    made = _tensor(tree_map(number, data), dtype=dtype, device="cpu" if device.type == "cuda" else device)
    made = torch.ops.aten._to_copy(made, device=GPU) if device.type == "cuda" else made
    return made.requires_grad_(requires_grad)


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    if isinstance(data, Tensor):
        return data.to(data.device if device is None else device, dtype or data.dtype)
    return tensor(data, dtype=dtype, device=device)


def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Of a plain tensor: C++ would ask a shadow tensor for its device, or the driver for its number."""
    if args and isinstance(args[0], ShadowTensor):
        args = (GPU, args[0].dtype, *args[1:])
    given = (*args[:1], kwargs.get("device"))
    if any(isinstance(each, str | torch.device) and torch.device(each).type == "cuda" for each in given):
        kwargs.pop("copy", None)
        _, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        how = {"dtype": dtype or self.dtype, "non_blocking": non_blocking, "memory_format": memory_format}
        return torch.ops.aten._to_copy(self, device=GPU, **how)
    return _to(self, *args, **kwargs)


def type_as(self: Tensor, other: Tensor) -> Tensor:
    return self.to(other.device, other.dtype)


def pin_memory(self: Tensor, *_: Any) -> Tensor:
    pinned = self.clone()
    pinned.shadow_pinned = True
    return pinned


def _surroundings(device: torch.device) -> list[Any]:
    """Of the thread that scores rewards: it needs the mode too."""
    return [torch.enable_grad() if torch.is_grad_enabled() else torch.no_grad(), ShadowMode()]


@contextmanager
def swapped_parameters() -> Iterator[None]:
    """``Module.to`` keeps a parameter's identity by swapping what it holds, as it cannot point it to other memory."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


def python_replacements() -> list[AbstractContextManager[Any]]:
    """Patches, to be entered together."""
    import torch.utils.checkpoint as checkpoint
    from diffusers.models.transformers import transformer_z_image

    from realgen.modules import background_rewards
    from realgen.policies.backbones import base

    cuda: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "synchronize": lambda *_: note_wait("the device"),
        "max_memory_allocated": lambda *_: 0,
        "current_stream": lambda *_: _Stream(),
        "stream": lambda *_: nullcontext(),
        "current_device": lambda: 0,
        "set_device": lambda *_: None,
        "empty_cache": lambda: None,
        "get_device_capability": lambda *_: (9, 0),
    }
    replacements: list[tuple[Any, str, Any]] = [
        *((torch.cuda, name, value) for name, value in cuda.items()),
        (checkpoint, "get_device_states", lambda *_: ([], [])),
        (checkpoint, "set_device_states", lambda *_, **__: None),
        (F, "scaled_dot_product_attention", attention),
        (torch, "tensor", tensor),
        (torch, "as_tensor", as_tensor),
        (Tensor, "to", to),
        (Tensor, "type_as", type_as),
        (Tensor, "pin_memory", pin_memory),
        *((module, "pad_sequence", pad_sequence) for module in (base, transformer_z_image, torch.nn.utils.rnn)),
        (background_rewards, "_surroundings", _surroundings),
        (torch.distributed.distributed_c10d, "_get_object_coll_device", lambda *_: "cuda"),
    ]
    return [*(patch.object(*each) for each in replacements), swapped_parameters()]
