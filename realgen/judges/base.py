"""The contract of a judge: images in, a verdict with its reason out."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

Choice = Literal["first", "second", "tie", "real", "fake"]
"""A verdict on a pair is one of the first three, one on a single image one of the last two."""


Kind = Literal["compare", "single"]
"""A question about a pair, or about one image."""


class IdentityChangedError(Exception):
    """A judge had to change how it asks, and with it its ``identity``; this question got no answer yet.

    Whoever keeps answers by the identity must compute it anew, so that answers to two questions do not mix; then ask
    again.
    """


@dataclass(frozen=True)
class Verdict:
    """A judge's answer to one question."""

    choice: Choice | None
    """None where the reply could not be read."""
    reason: str = ""
    """The judge's reason; empty where it gave none."""
    reply: str = ""
    """The whole reply, as it came."""
    tokens_in: int = 0
    """Tokens of the question, images included, as the judge counts them."""
    tokens_out: int = 0
    """Tokens of the reply, reasoning included."""
    requests: int = 1
    """Number of times that the question was sent until this reply came."""


class ArenaJudge(ABC):
    """Tells the more realistic of two images, and a real image from a generated one; used inside its ``session``."""

    concurrency: int = 1
    """Largest number of questions at a time, >= 1."""
    deterministic: bool = True
    """Whether the same question always gets the same reply, so that asking again for a readable one is in vain."""
    reads_prompt: bool = False
    """Whether its verdicts depend on the prompt."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The judge's name in tables and reports; a stand-in says that it is one."""

    @abstractmethod
    def identity(self, kind: Kind) -> Mapping[str, Any]:
        """Return all but images and prompt that verdicts, and so kept answers, depend on: JSON, no address or key."""

    @abstractmethod
    async def compare(self, first: Float[Tensor, "3 h1 w1"], second: Float[Tensor, "3 h2 w2"], prompt: str) -> Verdict:
        """Tell which of two images [3, H, W] in [0, 1] is the more realistic, in the order in which they are shown.

        The prompt is that of both; a judge may ignore it. A verdict of ``first``, ``second`` or ``tie``; None where the
        reply could not be read.
        """

    @abstractmethod
    async def judge_single(self, image: Float[Tensor, "3 height width"], prompt: str) -> Verdict:
        """Tell whether an image [3, H, W] in [0, 1] is a real photograph; a judge may ignore its prompt.

        A verdict of ``real`` or ``fake``; None where the reply could not be read.
        """

    def check(self) -> None:
        """Raise ValueError if something is missing, such as a key, before any work is done; sends nothing."""
        return

    def to(self, device: torch.device | str) -> ArenaJudge:
        """Compute on a device, if the judge computes on this machine and has no device of its own; return self."""
        return self

    def session(self) -> contextlib.AbstractAsyncContextManager[object]:
        """Return a context that holds what the judge needs while it is asked."""
        return contextlib.nullcontext()
