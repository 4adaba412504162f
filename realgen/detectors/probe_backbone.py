"""Frozen image networks of timm and open_clip with the preprocessing they were trained with, for linear probes."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.checks import first_line
from realgen.detectors.checkpoint import load_exactly, read_state_dict
from realgen.functional.network_input import NetworkInput, to_network_input
from realgen.functional.published_input import open_clip_input, timm_input

OPEN_CLIP = "open_clip:"
"""Begins the name of an open_clip model; other names are timm's."""
NOT_NEEDED = ("mask_token",)
"""Last parts of names in published files that features do not need."""


class Backbone(nn.Module):
    """Pooled features of images, resizing, cropping and normalising included.

    Args:
        tower: The network; prepared images in, features [B, D] out.
        wanted: The network's input.
    """

    def __init__(self, tower: nn.Module, wanted: NetworkInput) -> None:
        super().__init__()
        self.tower = tower
        self.wanted = wanted

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        """Return features of images in [0, 1]."""
        return self.tower(to_network_input(images, self.wanted))


def load_backbone(name: str, pretrained: str | None = None) -> Backbone:
    """Read a backbone by its name, frozen and in eval mode, in float32.

    The name is timm's (``vit_small_patch14_dinov2``, a pretrained tag may follow a dot; ``hf-hub:OWNER/NAME``;
    ``local-dir:FOLDER``), or one of open_clip's after ``open_clip:``, of which the image tower is taken. ``pretrained``
    is a file with its weights, of which a classifier is left out, or a tag of open_clip's; by default those that the
    name stands for, which may be fetched from the hub.

    Raises:
        ValueError: If there is no such model, or no weights for it that fit; what does not fit is named.
    """
    if name.startswith(OPEN_CLIP):
        backbone = _from_open_clip(name.removeprefix(OPEN_CLIP), pretrained)
    else:
        backbone = _from_timm(name, pretrained)
    return backbone.float().eval().requires_grad_(False)


def wave_picture(size: int = 64) -> Float[Tensor, "1 3 size size"]:
    """Draw waves of all lengths as an image [1, 3, S, S], whose features tell one backbone's weights from another's."""
    ramp = torch.linspace(0, 1, size)
    phase = torch.stack([(1 + c) * ramp[:, None] + (3 - c) * ramp[None, :] ** 2 for c in range(3)])
    return ((6.0 * phase).sin() * (40.0 * phase.square()).cos() * 0.5 + 0.5)[None]


def _from_timm(name: str, pretrained: str | None) -> Backbone:
    import timm  # seconds to import
    from timm.data.config import resolve_model_data_config

    try:
        tower: Any = timm.create_model(name, pretrained=pretrained is None, num_classes=0)
    except Exception as error:  # broken files make it stumble in many ways
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.4)) or "none"
        cause = first_line(error)
        raise ValueError(f"timm cannot load backbone {name!r} ({cause}); nearest of its names: {near}.") from error
    if pretrained is not None:
        path = Path(pretrained)
        if not path.is_file():
            raise ValueError(f"pretrained must be a file with a timm backbone's weights, {pretrained!r} is none.")
        named = tower.pretrained_cfg.get("classifier") or ()  # the layers of a classifier, one or several
        heads = tuple(f"{part}." for part in ((named,) if isinstance(named, str) else named))
        state = {name: value for name, value in read_state_dict(path).items() if not name.startswith(heads)}
        load_exactly(tower, state, path, ignored=NOT_NEEDED)
    return Backbone(tower, timm_input(resolve_model_data_config(tower)))


def _from_open_clip(name: str, pretrained: str | None) -> Backbone:
    import open_clip  # seconds to import

    if pretrained is None and ":" not in name:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none, it does not know the name"
        raise ValueError(f"backbone {OPEN_CLIP}{name} needs pretrained: a file, or a tag of open_clip's ({tags}).")
    try:
        model = open_clip.create_model(name, pretrained=pretrained, require_pretrained=True)
    except Exception as error:  # broken files make it stumble in many ways
        cause = first_line(error)
        raise ValueError(
            f"open_clip cannot load backbone {name!r} with pretrained={pretrained!r} ({cause})."
        ) from error
    return Backbone(model.visual, open_clip_input(model.visual.preprocess_cfg))
