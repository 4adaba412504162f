"""A multimodal language model behind any endpoint that speaks OpenAI's chat-completions API."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import random
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal
from urllib.parse import urlsplit

from jaxtyping import Float
from torch import Tensor

from realgen.judges.base import ArenaJudge, RefusedError, UnavailableError, Verdict
from realgen.judges.chat_api import (
    Completion,
    Detail,
    MalformedReplyError,
    jpeg_data_url,
    read_completion,
    user_message,
)
from realgen.judges.prompts import COMPARE, SINGLE, with_prompt
from realgen.judges.rate_limit import RateGate, TooLongError, told_to_wait
from realgen.judges.replies import Parse, parse_comparison, parse_single
from realgen.serving.replicas import backoff_seconds

_LOGGER = logging.getLogger(__name__)

_REFUSALS = (401, 402, 403, 404)
"""Statuses that tell of a wrong key, model or address, or of an empty account; every question would get the same."""
_PASSING = (408, 409, 425, 429)
"""Statuses below 500 that may be another one the next time."""
_QUOTA = "insufficient_quota"


@dataclass(frozen=True)
class Patience:
    """How long a judge waits for an endpoint."""

    timeout: float = 180.0
    """Seconds for one attempt, from connecting to the last byte of the answer, > 0."""
    retries: int = 5
    """Further attempts after the first, >= 0."""
    backoff: float = 1.0
    """Longest wait before the first repetition, in seconds, >= 0; doubles with each, times a random share."""
    max_backoff: float = 60.0
    """Longest wait of that kind, in seconds, >= 0."""
    max_wait: float = 900.0
    """Longest wait, in seconds, >= 0, that the endpoint may ask for; when it asks for more, the run stops."""

    def __post_init__(self) -> None:
        for name in ("retries", "backoff", "max_backoff", "max_wait"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}.")
        if not 0 < self.timeout < math.inf:
            raise ValueError(f"timeout must be above 0 and finite, got {self.timeout}.")


class OpenAIJudge(ArenaJudge):
    """Asks an OpenAI-compatible endpoint: OpenAI, Gemini's, vLLM, SGLang, llama.cpp and others.

    The key is read from the environment only, so that no config, log or results file can hold it; it is needed where
    questions are asked, not to count them. An endpoint's
    ``Retry-After`` and ``x-ratelimit-*`` headers are obeyed by all questions on their way. RealGen's published
    evaluation sends text and images as two messages; here they are one, which more endpoints accept.

    Args:
        model: Name of the model, as the endpoint calls it.
        base_url: Of the endpoint, up to ``/v1``; null for what the variable OPENAI_BASE_URL says, or OpenAI's own. One
            that holds a user and a password belongs into that variable.
        api_key_variable: Environment variable with the key; null for an endpoint that asks for none.
        quality: JPEG quality, 1 to 100, at which both images are sent.
        max_side: Longest side, in pixels, that images are scaled down to; null sends them as large as they are.
        detail: How closely the model is to look, as far as the endpoint knows that.
        temperature: Of sampling; null leaves it to the endpoint, as published.
        max_tokens: Longest reply, reasoning included; null leaves it to the endpoint. A reply cut off is unreadable.
        max_tokens_name: What the endpoint calls that; older ones know ``max_tokens`` only.
        extra_body: More of the request, for instance ``{reasoning_effort: low}``; keep secrets out of it.
        show_prompt: Tell the judge what the images are meant to show; the published evaluation does not.
        compare_question: Asked about a pair; must ask for "More Realistic Image: Image 1" or "Image 2".
        single_question: Asked about one image; must ask for "Real or Fake: Real" or "Fake".
        concurrency: Questions on their way at a time, >= 1.
        patience: Timeouts and repetitions; null for the defaults.

    Raises:
        ModuleNotFoundError: If the package openai is not installed.
        ValueError: If a number is out of its range, a text is empty, ``base_url`` is no address or holds a password, or
            ``api_key_variable`` is no name.
    """

    deterministic = False

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        api_key_variable: str | None = "OPENAI_API_KEY",
        quality: int = 95,
        max_side: int | None = 1024,
        detail: Detail = "auto",
        temperature: float | None = None,
        max_tokens: int | None = None,
        max_tokens_name: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens",
        extra_body: dict[str, Any] | None = None,
        show_prompt: bool = False,
        compare_question: str = COMPARE,
        single_question: str = SINGLE,
        concurrency: int = 8,
        patience: Patience | None = None,
    ) -> None:
        if find_spec("openai") is None:
            raise ModuleNotFoundError("No module named 'openai'. Install the extra: pip install 'realgen[arena]'")
        for name, number in {"max_side": max_side, "max_tokens": max_tokens, "concurrency": concurrency}.items():
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}.")
        if not 1 <= quality <= 100:
            raise ValueError(f"quality must be 1 to 100, got {quality}.")
        if temperature is not None and not temperature >= 0:
            raise ValueError(f"temperature must be at least 0, got {temperature}.")
        texts = {"model": model, "compare_question": compare_question, "single_question": single_question}
        for name, text in texts.items():
            if not text.strip():
                raise ValueError(f"{name} must be a text, got an empty one.")
        if base_url is not None:
            _check_address(base_url)
        if api_key_variable is not None and not re.fullmatch(r"[A-Za-z_]\w*", api_key_variable):
            raise ValueError(
                "api_key_variable must be the name of an environment variable, such as OPENAI_API_KEY, not the key: "
                "configs are written to files."
            )
        self.model, self.base_url, self.detail = model, base_url, detail
        self.quality, self.max_side, self.concurrency = quality, max_side, concurrency
        self.reads_prompt = show_prompt
        self.compare_question, self.single_question = compare_question.strip(), single_question.strip()
        self.patience = patience or Patience()
        self.api_key_variable = api_key_variable
        self._key = "none" if api_key_variable is None else os.environ.get(api_key_variable, "").strip()
        chosen = {"temperature": temperature, max_tokens_name: max_tokens}
        self._settings = {name: value for name, value in chosen.items() if value is not None}
        self._extra_body = dict(extra_body or {})
        self._jitter = random.Random()  # of its own, so that a bad network leaves the run's random numbers as they are
        self._gate = RateGate()
        self._warned = False
        self._client: Any = None

    @property
    def name(self) -> str:
        """The model's."""
        return self.model

    def identity(self, kind: Literal["compare", "single"]) -> Mapping[str, Any]:
        """Model, question, and how images are sent."""
        return {
            "judge": "openai",
            "model": self.model,
            "question": self.compare_question if kind == "compare" else self.single_question,
            "images": {"quality": self.quality, "max_side": self.max_side, "detail": self.detail},
            "settings": {**self._settings, **self._extra_body},
        }

    def check(self) -> None:
        """See that there is a key.

        Raises:
            ValueError: If the variable that should hold it is not set.
        """
        if not self._key:
            raise ValueError(
                f"api_key_variable names the environment variable {self.api_key_variable!r}, which is not set; an "
                "endpoint without keys wants null."
            )

    def session(self) -> AbstractAsyncContextManager[object]:
        """Hold the connections to the endpoint."""
        return self._connected()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[None]:
        from openai import AsyncOpenAI

        self.check()
        # Its own repetitions know nothing of the other questions on their way, so ours are used instead.
        async with AsyncOpenAI(api_key=self._key, base_url=self.base_url, max_retries=0, timeout=None) as client:
            self._client = client
            try:
                yield
            finally:
                self._client = None

    async def compare(self, first: Float[Tensor, "3 h1 w1"], second: Float[Tensor, "3 h2 w2"], prompt: str) -> Verdict:
        """Show two images, and ask which is the more realistic.

        Raises:
            UnavailableError: If no attempt brought an answer.
            RefusedError: If the endpoint refuses all questions.
        """
        images = {"Image 1": first, "Image 2": second}
        return await self._ask(self.compare_question, images, prompt, parse_comparison)

    async def judge_single(self, image: Float[Tensor, "3 height width"], prompt: str) -> Verdict:
        """Show an image, and ask whether it is real.

        Raises:
            UnavailableError: If no attempt brought an answer.
            RefusedError: If the endpoint refuses all questions.
        """
        return await self._ask(self.single_question, {"": image}, prompt, parse_single)

    async def _ask(self, question: str, images: Mapping[str, Tensor], prompt: str, parse: Parse) -> Verdict:
        write = partial(jpeg_data_url, quality=self.quality, max_side=self.max_side)
        urls = {label: await asyncio.to_thread(write, image) for label, image in images.items()}
        text = with_prompt(question, prompt) if self.reads_prompt else question
        message = user_message(text, urls, detail=self.detail)
        cause = ""
        for attempt in range(self.patience.retries + 1):
            if attempt:
                longest = {"first": self.patience.backoff, "longest": self.patience.max_backoff}
                await asyncio.sleep(backoff_seconds(attempt, **longest, share=self._jitter.random()))
            await self._pass_gate()
            try:
                completion = read_completion(await self._post(message))
            except (TimeoutError, MalformedReplyError, _PassingError) as error:
                is_late = isinstance(error, TimeoutError)
                cause = f"no answer within {self.patience.timeout:g} s" if is_late else self._without_key(str(error))
                continue
            self._warn_if_cut_off(completion)
            reading = parse(completion.text, completion.finished)
            return Verdict(
                choice=reading.choice,
                reason=self._without_key(reading.reason),
                reply=self._without_key(completion.text),
                tokens_in=completion.tokens_in,
                tokens_out=completion.tokens_out,
                attempts=attempt + 1,
            )
        raise UnavailableError(f"{self.model}: {cause} ({self.patience.retries + 1} attempts)")

    async def _post(self, message: Mapping[str, Any]) -> Any:
        """One attempt; what its answer's JSON held."""
        import openai

        create = self._client.chat.completions.with_raw_response.create
        arguments = {"model": self.model, "messages": [message], **self._settings}
        try:
            async with asyncio.timeout(self.patience.timeout):
                raw = await create(**arguments, extra_body=self._extra_body or None)
        except openai.APIStatusError as error:
            self._heed(error.response.headers, limited=error.status_code == 429)
            said = f"the endpoint answered {error.status_code}: {self._without_key(error.message)[:300]}"
            if error.status_code in _REFUSALS or error.code == _QUOTA:
                raise RefusedError(f"{self.model}: {said}") from None
            if error.status_code in _PASSING or error.status_code >= 500:
                raise _PassingError(said) from None
            raise UnavailableError(f"{self.model}: {said}") from None
        except openai.APIConnectionError as error:
            raise _PassingError(f"no connection ({type(error.__cause__ or error).__name__})") from None
        response = raw.http_response
        try:
            body = json.loads(response.text)
        except (ValueError, RecursionError):
            raise MalformedReplyError("the answer is no JSON") from None
        usage = body.get("usage") if isinstance(body, Mapping) else None
        tokens = usage.get("prompt_tokens") if isinstance(usage, Mapping) else None
        self._heed(response.headers, tokens=tokens if isinstance(tokens, int) else 0)
        return body

    def _heed(self, headers: Mapping[str, str], *, tokens: int = 0, limited: bool = False) -> None:
        """Let the next questions wait as long as the endpoint asks; the answer at hand is kept."""
        self._gate.close(told_to_wait(headers, now=time.time(), tokens=tokens, limited=limited))

    async def _pass_gate(self) -> None:
        try:
            await self._gate.wait(longest=self.patience.max_wait)
        except TooLongError as error:
            raise RefusedError(
                f"{self.model}: {error}, longer than max_wait={self.patience.max_wait:g}; answers so far are kept, run "
                "again later."
            ) from None

    def _warn_if_cut_off(self, completion: Completion) -> None:
        """Once: such replies cost tokens, and most of them cannot be read."""
        if not completion.finished and not self._warned:
            self._warned = True
            _LOGGER.warning(
                "%s: a reply was cut off after %d tokens by the endpoint's or your max_tokens, or by a filter.",
                self.model,
                completion.tokens_out,
            )

    def _without_key(self, text: str) -> str:
        """Some endpoints quote the key that they did not like."""
        return text.replace(self._key, "***") if len(self._key) > 6 else text


class _PassingError(Exception):
    """One attempt failed; another one may not."""


def _check_address(url: str) -> None:
    """Refuse what is no address, and one with a password, which logs and results would show.

    Raises:
        ValueError: If it is so; the message does not show the password.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError(
            "base_url must hold no user and password, which would be written to logs and results; leave it null, and "
            "set the environment variable OPENAI_BASE_URL instead."
        )
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"base_url must begin with http:// or https:// and a host, got {url!r}.")
