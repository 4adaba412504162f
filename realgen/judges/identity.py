"""Settings and weights of a local judge, as parts of its identity."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

_PLAIN = (str, int, float, bool, tuple, list, dict, torch.dtype, Path, type(None))
_SAMPLES = 256
"""Numbers of each tensor that are read."""


def plain_settings(part: object) -> dict[str, str]:
    """Return the public settings of an object that are plain values, as text.

    Args:
        part: Any object.

    Returns:
        By name; without networks, tensors, private values, and ``batch_size``, on which no answer depends.

    Example:
        >>> from types import SimpleNamespace
        >>> plain_settings(SimpleNamespace(size=3, batch_size=8, _cache={}))
        {'size': '3'}
    """
    public = {name: value for name, value in sorted(vars(part).items()) if name[0] != "_" and name != "batch_size"}
    return {name: str(value) for name, value in public.items() if isinstance(value, _PLAIN)}


def weights_digest(network: nn.Module) -> str:
    """Return a hash that differs between networks with other weights.

    Args:
        network: On any device.

    Returns:
        Hash of some numbers of each tensor, evenly spaced and rounded to 4 digits, so that it is the same on every
        machine.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(network.state_dict().items()):
        flat = tensor.detach().flatten()
        some = flat[:: max(1, len(flat) // _SAMPLES)].double().tolist()
        digest.update(f"{name} {tuple(tensor.shape)} {' '.join(f'{number:.4g}' for number in some)}\n".encode())
    return digest.hexdigest()
