"""A reward that is computed by servers that ``python -m realgen.serve`` runs."""

import asyncio
import hashlib
import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.checks import check_at_least, check_variable
from realgen.functional.network_input import check_images
from realgen.remote_calls import UnavailableError, read_secret, run_async
from realgen.rewards.base import Reward
from realgen.serving.client import ConnectionSettings, RewardClient
from realgen.serving.wire import Encoding, encode_request
from realgen.types import Samples

_LOGGER = logging.getLogger(__name__)


class RemoteReward(Reward):
    """Any reward or detector that ``realgen.serve`` serves, on this machine or another; a detector as 1 - p_fake.

    With ``encoding: safetensors`` the numbers equal those of the same reward in this process. A sample without a valid
    answer (none within ``connection.patience``, a wrong one, or null) is NaN, counts in ``failed/<component>``, and no
    objective learns from it. The run stops when more than ``max_failed_share`` of the recent samples failed, or when no
    server answered for longer than the patience. A server that refuses the requests (wrong token, over its limits)
    stops the run at once. ValueError if a number is out of its range, a url is invalid, or the variable is not set.

    Args:
        urls: Servers of the same reward, ``http://host:port`` each; they share the work.
        encoding: How images travel: ``safetensors`` is exact, ``png`` and ``webp`` are smaller and round to 8 bits.
        images_per_request: Images in one request, >= 1; at most the server's ``max_images``.
        send_prompts: Whether the reward reads prompts; a served detector does not.
        send_metadata: Whether the reward reads the prompts' other fields (``Samples.metadata``).
        low: Lowest possible reward; an answer below it is invalid.
        high: Highest possible reward; an answer above it is invalid.
        max_failed_share: Largest share of failed samples, in [0, 1], that the run goes on with; 1 never stops it.
        failure_window: Number of most recent samples among which the share is taken, >= 1.
        cache_size: Number of rewards kept, so that the same image (and prompt) is not sent again; 0 for none.
        token_variable: Environment variable with the servers' token; null for none.
        connection: Timeouts, repetitions, circuit breaker; null for the defaults.
    """

    fails_by_sample = False

    def __init__(
        self,
        urls: list[str],
        encoding: Encoding = "safetensors",
        images_per_request: int = 8,
        send_prompts: bool = True,
        send_metadata: bool = False,
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
        token = None
        if token_variable is not None:
            check_variable("token_variable", token_variable, "REALGEN_TOKEN")
            token = read_secret("token_variable", token_variable)
        self.encoding: Encoding = encoding
        self.images_per_request = images_per_request
        self.send_prompts, self.send_metadata = send_prompts, send_metadata
        self.low, self.high = low, high
        self.max_failed_share = max_failed_share
        self.cache_size = cache_size
        self.client = RewardClient(urls, connection or ConnectionSettings(), token=token)
        self._cache: dict[bytes, float] = {}
        self._failed: deque[bool] = deque(maxlen=failure_window)

    def overlaps(self, device: torch.device) -> bool:
        """Return True: it waits for its servers."""
        return True

    def score(self, samples: Samples) -> Float[Tensor, " rows"]:
        """Return the reward of each row [B]; NaN for images with NaN, and for rows without a valid answer.

        RuntimeError if too many of the recent samples failed, no server answers any more, or one refuses.
        """
        check_images(samples.images)
        images = samples.images.detach().to("cpu", torch.float32)
        prompts = samples.row_prompts if self.send_prompts else None
        metadata = None
        if self.send_metadata:
            metadata = [fields for fields in samples.metadata for _ in range(samples.group_size)]
        rewards = torch.full((len(images),), torch.nan)
        rows_by_key: dict[bytes, list[int]] = {}
        for row in images.isfinite().flatten(1).all(1).nonzero().flatten().tolist():
            told = ("" if prompts is None else prompts[row], {} if metadata is None else metadata[row])
            key = self._key(images[row], repr(told), row)
            if key in self._cache:
                rewards[row] = self._cache[key] = self._cache.pop(key)  # to the end: the oldest are dropped first
            else:
                rows_by_key.setdefault(key, []).append(row)
        distinct = [rows[0] for rows in rows_by_key.values()]
        answers, causes = run_async(self._request(images, prompts, metadata, distinct))
        for (key, rows), answer in zip(rows_by_key.items(), answers, strict=True):
            if answer is not None:
                rewards[rows] = answer
                self._remember(key, answer)
        self._count([answer is None or math.isnan(answer) for answer in answers], causes)
        return rewards.to(samples.images.device)

    async def _request(
        self,
        images: Tensor,
        prompts: Sequence[str] | None,
        metadata: Sequence[Mapping[str, Any]] | None,
        rows: Sequence[int],
    ) -> tuple[list[float | None], list[str]]:
        """Return the rewards of some rows, None for those without a valid answer, and the causes of failures."""
        chunks = [rows[i : i + self.images_per_request] for i in range(0, len(rows), self.images_per_request)]
        slots = asyncio.Semaphore(self.client.connection.concurrency)
        causes: list[str] = []
        async with self.client.http() as http:

            async def request(chunk: Sequence[int]) -> Sequence[float | None]:
                async with slots:
                    texts = None if prompts is None else [prompts[row] for row in chunk]
                    fields = None if metadata is None else [metadata[row] for row in chunk]
                    message = (images[list(chunk)], texts, self.encoding, fields)
                    body, content_type = await asyncio.to_thread(encode_request, *message)
                    try:
                        return await self.client.ask(http, body, content_type, len(chunk), low=self.low, high=self.high)
                    except UnavailableError as error:
                        causes.append(str(error))
                        return [None] * len(chunk)

            answers = await asyncio.gather(*map(request, chunks))
        return [answer for chunk in answers for answer in chunk], causes

    def _key(self, image: Tensor, told: str, row: int) -> bytes:
        """Return the key of a sample in the cache: a hash of its content, or its row number without a cache."""
        if self.cache_size == 0:
            return row.to_bytes(8)
        content = hashlib.blake2b(repr(tuple(image.shape)).encode(), digest_size=16)
        content.update(image.numpy().tobytes())
        content.update(told.encode("utf-8", "surrogatepass"))
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
        servers = ", ".join(replica.url for replica in self.client.replicas.all)
        cause = causes[-1] if causes else f"{servers} answered null, so it could not score them"
        _LOGGER.warning("%d of %d samples got no remote reward; %s", sum(failed), len(failed), cause)
        # An outage that outlasted the patience would make every further iteration wait for nothing.
        outage = self.max_failed_share < 1 and all(failed) and self.client.gave_up
        if share > self.max_failed_share or outage:
            raise RuntimeError(
                f"remote reward: {sum(self._failed)} of the last {len(self._failed)} samples could not be scored "
                f"(max_failed_share={self.max_failed_share:g}); last failure: {cause}"
            )
