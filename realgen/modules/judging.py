"""Rewards in the background: a chunk is judged while the next one is sampled."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.parallel import autocast_without_cache
from realgen.rewards.base import Reward
from realgen.types import RewardOutput, Rollout


class Judge:
    """Judges chunks of a rollout in a thread of its own, one after the other; ``rewards`` is the barrier.

    The numbers are those without the thread: it takes over the caller's autocast, gradient mode, device and stream.
    Rewards on the policy's own GPU stay right, since both threads put their work into that one stream, in which a
    chunk's images come before what reads them; they gain nothing by it. What gains are rewards that wait (servers), or
    that compute elsewhere than the policy.

    A context. An error leaves it at once: chunks that wait are dropped, and one that is being judged ends by itself,
    after the reward's own timeout at the latest; the process does not end before, as a thread that is torn out of
    PyTorch aborts it.

    Args:
        reward: Judges each chunk. A prompt's rewards must not depend on the other prompts of a chunk. It may neither
            draw from the global generators nor call a collective: another thread does both at the same time.
        background: Whether there is a thread; without it everything is judged at the barrier.

    Example:
        >>> from realgen.types import PolicyScore
        >>> class Brightness(Reward):
        ...     def score(self, rollout):
        ...         return rollout.images.mean((1, 2, 3))
        >>> none = torch.zeros(2, 0)
        >>> rollout = Rollout(("a",), 2, torch.full((2, 3, 4, 4), 0.5), PolicyScore(none), none.bool())
        >>> with Judge(Brightness()) as judge:
        ...     _ = judge.start(rollout), judge.start(rollout)
        ...     judge.rewards().total
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """

    def __init__(self, reward: Reward, *, background: bool = True) -> None:
        self.reward = reward
        self.seconds = 0.0
        """How long the chunks took to judge so far, waited for or not."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reward") if background else None
        self._outputs: list[Future[RewardOutput]] = []
        self._chunks: list[Rollout] = []

    def __enter__(self) -> Judge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=error is None, cancel_futures=True)

    def start(self, chunk: Rollout) -> Rollout:
        """Begin to judge a chunk; returns it. Raises what the reward raised of an earlier one."""
        if self._thread is None:
            self._chunks.append(chunk)
            return chunk
        for output in self._outputs:
            if output.done():
                output.result()
        self._outputs.append(self._thread.submit(self._judge, chunk, _surroundings(chunk.images.device)))
        return chunk

    def rewards(self) -> RewardOutput:
        """Wait for all chunks; their rewards, in the order of ``start``. Raises what the reward raised."""
        here = [self._judge(chunk, []) for chunk in self._chunks]
        return concatenate_rewards([*here, *(output.result() for output in self._outputs)])

    def _judge(self, chunk: Rollout, surroundings: Sequence[_Context]) -> RewardOutput:
        with ExitStack() as stack:
            for context in surroundings:
                stack.enter_context(context)
            start = time.perf_counter()
            output = self.reward(chunk.by_image)
            if chunk.images.is_cuda:  # not the whole device, which may be sampling already
                torch.cuda.current_stream(chunk.images.device).record_event().synchronize()
            self.seconds += time.perf_counter() - start
        return output


def concatenate_rewards(outputs: Sequence[RewardOutput]) -> RewardOutput:
    """Join the rewards of consecutive prompts, judged by one reward."""
    first = outputs[0]
    if len(outputs) == 1:
        return first
    parts = {name: torch.cat([output.parts[name] for output in outputs]) for name in first.parts}
    return RewardOutput(torch.cat([output.total for output in outputs]), parts, first.weights)


def mean_over_images(rewards: RewardOutput, images_per_row: int) -> RewardOutput:
    """Rewards of rows from those of their images: the mean over the images that could be judged.

    Args:
        rewards: [P, G * N], the N images of a row together.
        images_per_row: N.

    Returns:
        [P, G]; NaN where none of a row's images could be judged.

    Example:
        >>> rewards = torch.tensor([[0.0, 1.0, torch.nan, 3.0]])
        >>> mean_over_images(RewardOutput(rewards, {"r": rewards}, {"r": 1.0}), 2).total
        tensor([[0.5000, 3.0000]])
    """
    if images_per_row == 1:
        return rewards
    judged = rewards.valid  # a part may know an image that another part does not: means must be over the same ones

    def mean(part: Float[Tensor, "prompts images"]) -> Float[Tensor, "prompts group"]:
        return torch.where(judged, part, torch.nan).unflatten(1, (-1, images_per_row)).nanmean(-1)

    return RewardOutput(
        mean(rewards.total), {name: mean(part) for name, part in rewards.parts.items()}, rewards.weights
    )


def rewards_by_row(rewards: RewardOutput, images_per_row: int) -> RewardOutput:
    """Rewards of images in groups of one row each.

    Args:
        rewards: [P, G * N], the N images of a row together.
        images_per_row: N.

    Returns:
        [P * G, N].
    """

    def grouped(part: Float[Tensor, "prompts images"]) -> Float[Tensor, "rows images_of_row"]:
        return part.reshape(-1, images_per_row)

    parts = {name: grouped(part) for name, part in rewards.parts.items()}
    return RewardOutput(grouped(rewards.total), parts, rewards.weights)


_Context = torch.autocast | torch.no_grad | torch.enable_grad | torch.cuda.StreamContext


def _surroundings(device: torch.device) -> list[_Context]:
    """What PyTorch keeps for each thread, to be entered by another one."""
    grad = torch.enable_grad() if torch.is_grad_enabled() else torch.no_grad()
    contexts: list[_Context] = [grad, autocast_without_cache(device.type)]
    if device.type == "cuda":
        contexts.append(torch.cuda.stream(torch.cuda.current_stream(device)))
    return contexts
