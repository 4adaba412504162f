"""A linear probe: logistic regression on the features of a frozen backbone, fitted by ``python -m realgen.probe``.

Backbones are image networks of timm and open_clip, with the preprocessing that they were trained with.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.checks import first_line
from realgen.detectors.base import Detector
from realgen.detectors.checkpoint import CONFIG_NAME, WEIGHTS_NAME, load_exactly, read_state_dict, write_folder
from realgen.functional.logistic_regression import LogisticHead
from realgen.functional.network_input import NetworkInput, to_network_input
from realgen.functional.published_input import open_clip_input, timm_input
from realgen.given_files import read_json

OPEN_CLIP = "open_clip:"
"""Begins the name of an open_clip model; other names are timm's."""
NOT_NEEDED = ("mask_token",)
"""Last parts of names in published files that features do not need."""
FINGERPRINT_TOLERANCE = 1e-2
"""Relative distance of a fixed image's features; devices and versions of torch differ by less, weights by more."""


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
    name stands for, which may be fetched from the hub. ValueError if there is no such model, or no weights for it that
    fit; what does not fit is named.
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


@dataclass(frozen=True)
class ProbeConfig:
    """The contents of a probe's ``config.json``."""

    backbone: str
    """Name of the backbone, see ``load_backbone``."""
    pretrained: str | None = None
    """Its weights, where they are not those of the name."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """How the probe was fitted and how good it is; for readers."""


class LinearProbe(Detector):
    """Calibrated logistic regression on the pooled features of any timm or open_clip backbone.

    The quickest way to see whether a backbone can tell your real images from your generator's. It learns whatever tells
    the two folders apart, their file formats too: fit it with ``--match_jpeg`` if they differ in those. No substitute
    for a detector trained with augmentation on many generators, and a policy fools it soon. ValueError if ``probe`` is
    no such folder, or was fitted on another backbone than ``backbone``.

    Args:
        probe: Folder that ``python -m realgen.probe`` wrote: ``config.json`` and ``model.safetensors``.
        backbone: Name of the backbone, to be sure of it; by default what the probe was fitted on.
        pretrained: The backbone's weights: a file, or a tag of open_clip's; by default where they were when the probe
            was fitted. Other weights than those are noticed by their features.
        batch_size: Images per forward pass.
    """

    def __init__(
        self, probe: str, backbone: str | None = None, pretrained: str | None = None, batch_size: int = 64
    ) -> None:
        super().__init__(batch_size)
        self.folder = Path(probe)
        for name in (CONFIG_NAME, WEIGHTS_NAME):
            if not (self.folder / name).is_file():
                raise ValueError(
                    f"probe must be a folder with {CONFIG_NAME} and {WEIGHTS_NAME}; {str(self.folder / name)!r} does "
                    f"not exist. Fit one: {_fit_command(backbone, probe)}"
                )
        path = self.folder / CONFIG_NAME
        values, known = read_json(path), {entry.name for entry in dataclasses.fields(ProbeConfig)}
        if not isinstance(values, dict) or not {"backbone"} <= set(values) <= known:
            raise ValueError(
                f"{path} must be an object with backbone, and perhaps pretrained and report; got {values!r}."
            )
        self.config = ProbeConfig(**values)
        if backbone is not None and backbone != self.config.backbone:
            raise ValueError(
                f"backbone must be the one that probe {probe!r} was fitted on, {self.config.backbone!r}; got "
                f"{backbone!r}. Fit a new one: {_fit_command(backbone, 'ANOTHER_DIR')}"
            )
        self.pretrained = self.config.pretrained if pretrained is None else pretrained

    def build(self) -> nn.Module:
        """Read backbone and head; raise ValueError if they cannot be read, or do not belong together."""
        weights = self.folder / WEIGHTS_NAME
        state = read_state_dict(weights)
        if set(state) != {"weight", "bias", "fingerprint"}:
            raise ValueError(f"{weights} must hold weight, bias and fingerprint, got {', '.join(sorted(state))}.")
        backbone = load_backbone(self.config.backbone, self.pretrained)
        found, expected, name = fingerprint(backbone).cpu(), state["fingerprint"], self.config.backbone
        if found.shape != expected.shape:
            raise ValueError(f"backbone {name!r} has {len(found)} features, the probe was fitted on {len(expected)}.")
        distance = float((found - expected).norm() / expected.norm())
        if not distance < FINGERPRINT_TOLERANCE:
            raise ValueError(
                f"backbone {name!r} has other weights than the probe was fitted on: its features of a fixed picture "
                f"differ by {distance:.2g} of their length, allowed are {FINGERPRINT_TOLERANCE:g}."
            )
        head = nn.Linear(len(state["weight"]), 1)
        head.load_state_dict({"weight": state["weight"][None], "bias": state["bias"][None]})
        return nn.Sequential(backbone, head)

    def p_fake(self, network: nn.Module, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, " batch"]:
        """Return the probability that each image is generated."""
        return network(images)[:, 0].sigmoid()


def save_probe(folder: Path, backbone: Backbone, head: LogisticHead, config: ProbeConfig) -> None:
    """Write a ``LinearProbe``'s folder, files in it replaced; ``config`` names the backbone the head was fitted on."""
    state = {"weight": head.weight, "bias": head.bias, "fingerprint": fingerprint(backbone)}
    write_folder(folder, {name: value.float() for name, value in state.items()}, config)


@torch.no_grad()
def fingerprint(backbone: Backbone) -> Float[Tensor, " features"]:
    """Return the features [D] of a fixed image."""
    device = next(backbone.parameters()).device
    return backbone(wave_picture().to(device))[0]


def _fit_command(backbone: str | None, output: str) -> str:
    return f"python -m realgen.probe --real DIR --generated DIR --backbone {backbone or 'NAME'} --output {output}"
