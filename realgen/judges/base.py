"""The contract of a judge: two images, or one, in; a verdict with its reason out."""

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
"""What a judge can say: of a pair one of the first three, of a single image one of the last two."""


class UnavailableError(Exception):
    """A judge gave no answer to this question; it may answer another one, or the same one later."""


class RefusedError(RuntimeError):
    """A judge refuses all questions, because of the key, the model's name or a quota; asking on does not help."""


@dataclass(frozen=True)
class Verdict:
    """What a judge said to one question."""

    choice: Choice | None
    """None where the reply could not be read."""
    reason: str = ""
    """Why, in the judge's words; empty where it gave none."""
    reply: str = ""
    """The whole reply, as it came."""
    tokens_in: int = 0
    """Tokens of the question, images included, as the judge counts them."""
    tokens_out: int = 0
    """Tokens of the reply, reasoning included."""
    attempts: int = 1
    """Times that the question was sent until this reply came."""


class ArenaJudge(ABC):
    """Tells the more realistic of two images, and a real image from a generated one.

    A judge is used inside its ``session``, and answers ``concurrency`` questions at a time at most.
    """

    concurrency: int = 1
    """Questions that may be asked at a time, >= 1."""
    deterministic: bool = True
    """Whether the same question always gets the same reply, so that asking again for a readable one is in vain."""
    reads_prompt: bool = False
    """Whether its verdicts depend on the prompt."""

    @property
    @abstractmethod
    def name(self) -> str:
        """How tables and reports call the judge; a stand-in says that it is one."""

    @abstractmethod
    def identity(self, kind: Literal["compare", "single"]) -> Mapping[str, Any]:
        """All that its verdicts of a kind depend on, but the images and the prompt: JSON, without addresses and keys.

        Answers kept in a file belong to an identity; another one is asked anew.
        """

    @abstractmethod
    async def compare(self, first: Float[Tensor, "3 h1 w1"], second: Float[Tensor, "3 h2 w2"], prompt: str) -> Verdict:
        """Tell which of two images is the more realistic.

        Args:
            first: [3, H, W] in [0, 1], shown first.
            second: [3, H', W'] in [0, 1], shown second.
            prompt: What both are meant to show; a judge may ignore it.

        Returns:
            A verdict of ``first``, ``second`` or ``tie``; None where the reply could not be read.
        """

    @abstractmethod
    async def judge_single(self, image: Float[Tensor, "3 height width"], prompt: str) -> Verdict:
        """Tell whether an image is a real photograph.

        Args:
            image: [3, H, W] in [0, 1].
            prompt: What it is meant to show; a judge may ignore it.

        Returns:
            A verdict of ``real`` or ``fake``; None where the reply could not be read.
        """

    def check(self) -> None:
        """See that the judge can be asked, before work is done that would be in vain; asks nothing, and costs nothing.

        Raises:
            ValueError: If something is missing, such as its key.
        """
        return

    def to(self, device: torch.device | str) -> ArenaJudge:
        """Compute on a device, where the judge computes here and was not told where; returns self."""
        return self

    def session(self) -> contextlib.AbstractAsyncContextManager[object]:
        """Hold what the judge needs while it is asked, and give it back afterwards."""
        return contextlib.nullcontext()
