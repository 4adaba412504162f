"""Requests in, rewards out: several requests scored together, and none harmed by its neighbours."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.serving.wire import RewardRequest
from realgen.types import Samples


@runtime_checkable
class Scorer(Protocol):
    """What a server needs of a reward."""

    def score(self, samples: Samples) -> Float[Tensor, " rows"]:
        """One number per row, higher is better; NaN for a row that could not be scored."""


def score_requests(scorer: Scorer, requests: Sequence[RewardRequest]) -> list[Tensor | Exception]:
    """Score requests of any sizes, images of one size together; return the rewards [rows] or the error of each."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, request in enumerate(requests):
        groups.setdefault(request.images.shape[2:], []).append(index)
    answers: dict[int, Tensor | Exception] = {}
    for indices in groups.values():
        outcome = _attempt(scorer, [requests[i] for i in indices])
        if isinstance(outcome, Exception):  # one of them may be at fault, and the others not
            alone = [_attempt(scorer, [requests[i]]) for i in indices] if len(indices) > 1 else [outcome]
            outcome = [each if isinstance(each, Exception) else each[0] for each in alone]
        answers |= dict(zip(indices, outcome, strict=True))
    return [answers[i] for i in range(len(requests))]


def _attempt(scorer: Scorer, requests: Sequence[RewardRequest]) -> Sequence[Tensor | Exception] | Exception:
    images = torch.cat([request.pixels() for request in requests])
    rows = [len(request.images) for request in requests]
    prompts = [prompt for request in requests for prompt in request.prompts or [""] * len(request.images)]
    metadata = tuple(row for request in requests for row in request.metadata or [{}] * len(request.images))
    try:
        rewards = scorer.score(Samples(tuple(prompts), 1, images, metadata=metadata)).detach().float().cpu()
        if rewards.shape != (len(images),):
            raise ValueError(f"the reward must be one number per row, {len(images)}, got {list(rewards.shape)}.")
    except torch.AcceleratorError:
        raise
    except Exception as error:  # a reward may raise anything; the server lives on
        return error
    return list(rewards.split(rows))
