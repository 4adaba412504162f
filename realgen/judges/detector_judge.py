"""A detector as a judge, where there is no language model; its name says so."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.detectors.base import Detector
from realgen.functional.network_input import check_images
from realgen.judges.base import ArenaJudge, Kind, Verdict

_PLAIN = (str, int, float, bool, tuple, list, dict, torch.dtype, Path, type(None))
_SAMPLES = 256  # numbers of each tensor that are read


class DetectorJudge(ArenaJudge):
    """Finds the image with the smaller ``p_fake`` more realistic, and an image below one half real.

    A stand-in: it gives no reasons, knows only the fakes of its training, and is fooled like other detectors by a model
    that was trained against them. Never use one that was a reward. It has no position bias. ValueError if
    ``tie_margin`` is out of its range.

    Args:
        detector: Returns ``p_fake``.
        label: Its name in results; null for the detector's class.
        tie_margin: Largest difference of ``p_fake`` that is a tie, in [0, 1).
        device: Where it computes; null for the device of the command.
    """

    def __init__(
        self, detector: Detector, label: str | None = None, tie_margin: float = 0.0, device: str | None = None
    ) -> None:
        if not 0 <= tie_margin < 1:
            raise ValueError(f"tie_margin must be at least 0 and below 1, got {tie_margin}.")
        self.detector = detector
        self.label = label or type(detector).__name__
        self.tie_margin = tie_margin
        self.device = torch.device(device or "cpu")
        self._has_own_device = device is not None
        self._answers: dict[bytes, float] = {}

    @property
    def name(self) -> str:
        """The detector's name, and that it is one."""
        return f"{self.label} (a detector as a stand-in)"

    def identity(self, kind: Kind) -> Mapping[str, Any]:
        """Return the detector, its settings and weights, and the margin; reads the weights."""
        return {
            "judge": "detector",
            "detector": f"{type(self.detector).__module__}.{type(self.detector).__qualname__}",
            "settings": plain_settings(self.detector),
            "weights": self.weights,
            **({"tie_margin": self.tie_margin} if kind == "compare" else {}),
        }

    async def compare(self, first: Float[Tensor, "3 h1 w1"], second: Float[Tensor, "3 h2 w2"], prompt: str) -> Verdict:
        """Score both images separately; the prompt is not read."""
        p_first, p_second = self.p_fake(first), self.p_fake(second)
        reply = f"p_fake is {p_first:.4f} and {p_second:.4f}"
        if p_first != p_first or p_second != p_second:
            return Verdict(None, reply=reply)
        if abs(p_first - p_second) <= self.tie_margin:
            return Verdict("tie", reason=reply, reply=reply)
        return Verdict("first" if p_first < p_second else "second", reason=reply, reply=reply)

    async def judge_single(self, image: Float[Tensor, "3 height width"], prompt: str) -> Verdict:
        """Score an image; the prompt is not read."""
        p_fake = self.p_fake(image)
        reply = f"p_fake is {p_fake:.4f}"
        if p_fake != p_fake:
            return Verdict(None, reply=reply)
        return Verdict("real" if p_fake < 0.5 else "fake", reason=reply, reply=reply)

    def to(self, device: torch.device | str) -> DetectorJudge:
        """Compute on a device, unless ``device`` was given; return self."""
        if not self._has_own_device:
            self.device = torch.device(device)
        return self

    @cached_property
    def weights(self) -> str:
        """Hash of the detector's weights, which are loaded for it."""
        return weights_digest(self.detector.network)

    def p_fake(self, image: Float[Tensor, "3 height width"]) -> float:
        """Return p_fake in [0, 1] of an image [3, H, W] in [0, 1], cached; NaN for NaN, ValueError if out of range."""
        check_images(image.unsqueeze(0))
        content = hashlib.blake2b(repr(tuple(image.shape)).encode(), digest_size=16)
        content.update(image.detach().float().cpu().contiguous().numpy().tobytes())
        key = content.digest()
        if key not in self._answers:
            self.detector.to(self.device)
            self._answers[key] = float(self.detector(image.unsqueeze(0).to(self.device)))
        return self._answers[key]


def plain_settings(part: object) -> dict[str, str]:
    """Return an object's public plain settings as text by name; not ``batch_size``, on which no answer depends."""
    public = {name: value for name, value in sorted(vars(part).items()) if name[0] != "_" and name != "batch_size"}
    return {name: str(value) for name, value in public.items() if isinstance(value, _PLAIN)}


def weights_digest(network: nn.Module) -> str:
    """Return a hash of weights, the same on every machine: of some numbers of each tensor, rounded to 4 digits."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(network.state_dict().items()):
        flat = tensor.detach().flatten()
        some = flat[:: max(1, len(flat) // _SAMPLES)].double().tolist()
        digest.update(f"{name} {tuple(tensor.shape)} {' '.join(f'{number:.4g}' for number in some)}\n".encode())
    return digest.hexdigest()
