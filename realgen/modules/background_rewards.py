"""Rewards in the background: a chunk is scored while the next one is sampled."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from types import TracebackType
from typing import Any

import torch

from realgen.parallel import autocast_without_cache, together, world_size
from realgen.phases import phase
from realgen.rewards.base import Reward
from realgen.types import RewardOutput, Rollout, Samples


class BackgroundRewards:
    """Scores chunks of a rollout in a thread of its own, one after the other; ``rewards`` is the barrier.

    The numbers are those without the thread: it takes over the caller's autocast, gradient mode, device and stream.
    Rewards that wait or compute on another device gain by it (``Reward.overlaps``). One on the policy's own GPU is
    correct too: both threads put their work into one stream, in which a chunk's images come before what reads them.

    A context manager. An error leaves it at once: waiting chunks are dropped, and the one that is being scored ends by
    itself, after the reward's own timeout at the latest; the process does not end before, since killing a thread inside
    PyTorch aborts it.

    Args:
        reward: Scores each chunk. A prompt's rewards must not depend on the other prompts of a chunk. In the thread it
            may neither draw from the global generators nor call a collective, as the policy does both meanwhile, nor
            set what all threads share, even in a context: default dtype, ``sdpa_kernel``, cuDNN, matmul precision.
        metadata: The other fields of all prompts, handed to the reward with their chunk; may be empty.
        background: Whether to use a thread; without it all chunks are scored at the barrier.
    """

    def __init__(self, reward: Reward, metadata: Sequence[Mapping[str, Any]] = (), *, background: bool = True) -> None:
        self.reward = reward
        self.seconds = 0.0
        """How long the chunks took to score so far, waited for or not."""
        self._metadata = iter(metadata)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reward") if background else None
        self._outputs: list[Future[RewardOutput]] = []
        self._waiting: list[Samples] = []
        self._device = torch.device("cpu")

    def __enter__(self) -> BackgroundRewards:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=error is None, cancel_futures=True)

    def start(self, chunk: Rollout) -> None:
        """Begin to score a chunk of consecutive prompts. Raise what the reward raised for an earlier one."""
        samples = chunk.samples(list(islice(self._metadata, len(chunk.prompts))))
        self._device = samples.images.device
        if self._thread is None:
            self._waiting.append(samples)
            return
        for output in self._outputs:
            if output.done() and world_size() == 1:  # several ranks fail together, at the barrier
                output.result()
        self._outputs.append(self._thread.submit(self._score, samples, _surroundings(samples.images.device)))

    def rewards(self) -> RewardOutput:
        """Wait for all chunks; return their rewards in the order of ``start``. Raise what any rank's reward raised."""
        with together(self._device):
            outputs = [self._score(samples, []) for samples in self._waiting]
            outputs += [output.result() for output in self._outputs]
        return RewardOutput.concatenate(outputs)

    @phase("reward")
    def _score(self, samples: Samples, surroundings: Sequence[_Context]) -> RewardOutput:
        with ExitStack() as stack:
            for context in surroundings:
                stack.enter_context(context)
            start = time.perf_counter()
            output = self.reward(samples)
            if samples.images.is_cuda:  # not the whole device, which may be sampling already
                torch.cuda.current_stream(samples.images.device).record_event().synchronize()
            self.seconds += time.perf_counter() - start
        return output


_Context = torch.autocast | torch.no_grad | torch.enable_grad | torch.cuda.StreamContext


def _surroundings(device: torch.device) -> list[_Context]:
    """Return the state that PyTorch keeps per thread, as contexts for another thread to enter."""
    grad = torch.enable_grad() if torch.is_grad_enabled() else torch.no_grad()
    contexts: list[_Context] = [grad, autocast_without_cache(device.type)]
    if device.type == "cuda":
        contexts.append(torch.cuda.stream(torch.cuda.current_stream(device)))
    return contexts
