"""A reward that is computed by servers that ``python -m realgen.serve`` runs."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
from collections import deque
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.checks import check_at_least
from realgen.functional.network_input import check_images
from realgen.remote_calls import UnavailableError, run_async
from realgen.rewards.base import Reward
from realgen.serving.client import ConnectionSettings, RewardClient
from realgen.serving.wire import Encoding, encode_request
from realgen.types import Samples

_LOGGER = logging.getLogger(__name__)


class RemoteReward(Reward):
    """Any reward or detector that ``realgen.serve`` serves, on this machine or another; a detector as 1 - p_fake.

    With ``encoding: safetensors`` the numbers equal those of the same reward in this process. A sample without a valid
    answer (server down, slow or wrong) is NaN, counts in ``failed/<component>``, and no objective learns from it; when
    more than ``max_failed_share`` of the recent samples failed, the run stops. A server that refuses the requests
    (wrong token, over its limits) stops the run at once.

    Args:
        urls: Servers of the same reward, ``http://host:port`` each; they share the work.
        encoding: How images travel: ``safetensors`` is exact, ``png`` and ``webp`` are smaller and round to 8 bits.
        images_per_request: Images in one request, >= 1; at most the server's ``max_images``.
        send_prompts: Whether the reward reads prompts; a served detector does not.
        low: Lowest possible reward; an answer below it is invalid.
        high: Highest possible reward; an answer above it is invalid.
        max_failed_share: Largest share of failed samples, in [0, 1], that the run goes on with.
        failure_window: Number of most recent samples among which the share is taken, >= 1.
        cache_size: Number of rewards kept, so that the same image (and prompt) is not sent again; 0 for none.
        token_variable: Environment variable with the servers' token; null for none.
        connection: Timeouts, repetitions, circuit breaker; null for the defaults.

    Raises:
        ValueError: If a number is out of its range, a url is invalid, or the variable is not set.
    """

    def __init__(
        self,
        urls: list[str],
        encoding: Encoding = "safetensors",
        images_per_request: int = 8,
        send_prompts: bool = True,
        low: float = -math.inf,
        high: float = math.inf,
        max_failed_share: float = 0.5,
        failure_window: int = 256,
        cache_size: int = 4096,
        token_variable: str | None = None,
        connection: ConnectionSettings | None = None,
    ) -> None:
        check_at_least(1, images_per_request=images_per_request, failure_window=failure_window)
        check_at_least(0, cache_size=cache_size)
        if not low < high:
            raise ValueError(f"low must be below high={high}, got {low}.")
        if not 0 <= max_failed_share <= 1:
            raise ValueError(f"max_failed_share must be from 0 to 1, got {max_failed_share}.")
        if token_variable is not None and not os.environ.get(token_variable):
            raise ValueError(f"token_variable names the environment variable {token_variable!r}, which is not set.")
        self.encoding: Encoding = encoding
        self.images_per_request = images_per_request
        self.send_prompts = send_prompts
        self.low, self.high = low, high
        self.max_failed_share = max_failed_share
        self.cache_size = cache_size
        token = None if token_variable is None else os.environ[token_variable]
        self.client = RewardClient(urls, connection or ConnectionSettings(), token=token)
        self._cache: dict[bytes, float] = {}
        self._failed: deque[bool] = deque(maxlen=failure_window)

    def score(self, samples: Samples) -> Float[Tensor, " rows"]:
        """Return the reward of each row [B]; NaN for images with NaN, and for rows without a valid answer.

        Raises:
            RuntimeError: If more than ``max_failed_share`` of the recent samples failed, or a server refuses.
        """
        check_images(samples.images)
        images = samples.images.detach().to("cpu", torch.float32)
        prompts = samples.row_prompts if self.send_prompts else None
        rewards = torch.full((len(images),), torch.nan)
        rows_by_key: dict[bytes, list[int]] = {}
        for row in images.isfinite().flatten(1).all(1).nonzero().flatten().tolist():
            key = self._key(images[row], prompts[row] if prompts is not None else "", row)
            if key in self._cache:
                rewards[row] = self._cache[key] = self._cache.pop(key)  # to the end: the oldest are dropped first
            else:
                rows_by_key.setdefault(key, []).append(row)
        distinct = [rows[0] for rows in rows_by_key.values()]
        answers, causes = run_async(self._request(images, prompts, distinct))
        for (key, rows), answer in zip(rows_by_key.items(), answers, strict=True):
            if answer is not None:
                rewards[rows] = answer
                self._remember(key, answer)
        self._count([answer is None for answer in answers], causes)
        return rewards.to(samples.images.device)

    async def _request(
        self, images: Tensor, prompts: Sequence[str] | None, rows: Sequence[int]
    ) -> tuple[list[float | None], list[str]]:
        """Return the rewards of some rows, None for those without a valid answer, and the causes of failures."""
        chunks = [rows[i : i + self.images_per_request] for i in range(0, len(rows), self.images_per_request)]
        slots = asyncio.Semaphore(self.client.connection.concurrency)
        causes: list[str] = []
        async with self.client.http() as http:

            async def request(chunk: Sequence[int]) -> Sequence[float | None]:
                async with slots:
                    texts = None if prompts is None else [prompts[row] for row in chunk]
                    pixels = images[list(chunk)]
                    body, content_type = await asyncio.to_thread(encode_request, pixels, texts, self.encoding)
                    try:
                        return await self.client.ask(http, body, content_type, len(chunk), low=self.low, high=self.high)
                    except UnavailableError as error:
                        causes.append(str(error))
                        return [None] * len(chunk)

            answers = await asyncio.gather(*map(request, chunks))
        return [answer for chunk in answers for answer in chunk], causes

    def _key(self, image: Tensor, prompt: str, row: int) -> bytes:
        """Return the key of a sample in the cache: a hash of its content, or its row number without a cache."""
        if self.cache_size == 0:
            return row.to_bytes(8)
        content = hashlib.blake2b(repr(tuple(image.shape)).encode(), digest_size=16)
        content.update(image.numpy().tobytes())
        content.update(prompt.encode("utf-8", "surrogatepass"))
        return content.digest()

    def _remember(self, key: bytes, reward: float) -> None:
        if self.cache_size == 0 or math.isnan(reward):  # the next request may succeed
            return
        self._cache[key] = reward
        if len(self._cache) > self.cache_size:
            del self._cache[next(iter(self._cache))]

    def _count(self, failed: Sequence[bool], causes: Sequence[str]) -> None:
        self._failed.extend(failed)
        if not any(failed):
            return
        share = sum(self._failed) / len(self._failed)
        _LOGGER.warning("%d of %d samples got no remote reward; %s", sum(failed), len(failed), causes[-1])
        if share > self.max_failed_share:
            raise RuntimeError(
                f"remote reward: {sum(self._failed)} of the last {len(self._failed)} samples could not be scored, "
                f"more than max_failed_share={self.max_failed_share:g}; last failure: {causes[-1]}"
            )
