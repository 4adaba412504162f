"""A multimodal language model behind any endpoint that speaks OpenAI's chat-completions API."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from jaxtyping import Float
from torch import Tensor

from realgen.checks import check_address, check_at_least, check_variable
from realgen.given_files import parse_json
from realgen.judges.base import ArenaJudge, IdentityChangedError, Kind, Verdict
from realgen.judges.chat_api import (
    Completion,
    Detail,
    MalformedReplyError,
    jpeg_data_url,
    limited_client,
    read_completion,
    user_message,
)
from realgen.judges.verdict_form import COMPARE, FORMS, SINGLE, AnswerFormat, Questions
from realgen.masking import mask
from realgen.remote_calls import (
    RefusedError,
    Retrier,
    RetrySettings,
    TransientError,
    UnavailableError,
    deadline,
    quoted,
    read_secret,
    retry_after,
)

if TYPE_CHECKING:
    import openai

_LOGGER = logging.getLogger(__name__)

_REFUSALS = (401, 402, 404)
"""Statuses for a wrong key, model or address, or an empty account: every question would get the same. 403 is not among
them: gateways and filters answer so to one question, for what it shows."""
_TRANSIENT = (408, 409, 425, 429)  # statuses below 500 that a further attempt may not get
_QUOTA = "insufficient_quota"
_FORMAT_REFUSALS = (400, 422, 500, 501)
"""Statuses with which endpoints refuse a ``response_format`` that they do not know."""


class OpenAIJudge(ArenaJudge):
    """Asks an OpenAI-compatible endpoint: OpenAI, Gemini's, vLLM, SGLang, llama.cpp and others.

    The key is read from the environment only, so that no config, log or results file can hold it; it is needed to ask
    questions, not to count them. A ``Retry-After`` of the endpoint holds back all questions. RealGen's published
    evaluation sends text and images as two messages; here they are one, which more endpoints accept.
    ModuleNotFoundError if the package openai is not installed; ValueError if a number is out of its range, a text is
    empty, ``base_url`` is no address or holds a password, or ``api_key_variable`` is no name.

    Args:
        model: Name of the model, as the endpoint calls it.
        base_url: Of the endpoint, up to ``/v1``; null for what the variable OPENAI_BASE_URL says, or OpenAI's own. One
            that holds a user and a password belongs into that variable.
        api_key_variable: Environment variable with the key; null for an endpoint that asks for none.
        quality: JPEG quality, 1 to 100, at which both images are sent.
        max_side: Longest side, in pixels, that images are scaled down to; null sends them as large as they are.
        detail: Resolution at which the model is to look, as far as the endpoint knows that.
        answer_format: ``json``: by a schema (``response_format``), and in two lines from the moment on when the
            endpoint refuses that. ``lines``: in the two lines of the published evaluation; to be set for an endpoint
            that is known to refuse schemas, so that a dry run counts the answers that are kept.
        temperature: Of sampling; null leaves it to the endpoint, as published.
        max_tokens: Longest reply, reasoning included; null leaves it to the endpoint. A reply cut off is unreadable.
        max_tokens_name: What the endpoint calls that; older ones know ``max_tokens`` only.
        extra_body: More of the request, for instance ``{reasoning_effort: low}``; keep secrets out of it.
        show_prompt: Tell the judge what the images are meant to show; the published evaluation does not.
        compare_question: Asked about a pair; how to answer is said behind it.
        single_question: Asked about one image; how to answer is said behind it.
        concurrency: Largest number of questions at a time, >= 1.
        retry: Timeouts and repetitions; null for the defaults.
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
        answer_format: AnswerFormat = "json",
        temperature: float | None = None,
        max_tokens: int | None = None,
        max_tokens_name: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens",
        extra_body: dict[str, Any] | None = None,
        show_prompt: bool = False,
        compare_question: str = COMPARE,
        single_question: str = SINGLE,
        concurrency: int = 8,
        retry: RetrySettings | None = None,
    ) -> None:
        if find_spec("openai") is None:
            raise ModuleNotFoundError("No module named 'openai'. Install the extra: pip install 'realgen[arena]'")
        check_at_least(1, max_side=max_side, max_tokens=max_tokens, concurrency=concurrency)
        check_at_least(0, temperature=temperature)
        if not 1 <= quality <= 100:
            raise ValueError(f"quality must be 1 to 100, got {quality}.")
        if not model.strip():
            raise ValueError("model must be a text, got an empty one.")
        if base_url is not None:
            form = "begin with http:// or https:// and a host"
            instead = "leave it null, and set the environment variable OPENAI_BASE_URL instead"
            check_address("base_url", base_url, form, instead=instead)
        if api_key_variable is not None:
            check_variable("api_key_variable", api_key_variable, "OPENAI_API_KEY")
        self.model, self.base_url, self.detail, self.answer_format = model, base_url, detail, answer_format
        self.quality, self.max_side, self.concurrency = quality, max_side, concurrency
        self.reads_prompt = show_prompt
        self.questions = Questions(compare_question, single_question, show_prompt=show_prompt)
        self.retry = retry or RetrySettings()
        self.api_key_variable = api_key_variable
        self._key = None if api_key_variable is None else os.environ.get(api_key_variable, "").strip()
        chosen = {"temperature": temperature, max_tokens_name: max_tokens}
        self._settings = {name: value for name, value in chosen.items() if value is not None}
        self._extra_body = dict(extra_body or {})
        self._retrier = Retrier(model, self.retry)
        self._warned = False
        self._client: Any = None

    @property
    def name(self) -> str:
        """The model's."""
        return self.model

    def identity(self, kind: Kind) -> Mapping[str, Any]:
        """Return model, question, form of the answer, and how images are sent."""
        return {
            "judge": "openai",
            "model": self.model,
            "question": self.questions.text(kind, self.answer_format),
            "answer_format": self.answer_format,
            "images": {"quality": self.quality, "max_side": self.max_side, "detail": self.detail},
            "settings": {**self._settings, **self._extra_body},
        }

    def check(self) -> None:
        """Raise ValueError if the variable that should hold the key is not set, or holds what no HTTP header can."""
        if self.api_key_variable is not None:
            self._key = read_secret("api_key_variable", self.api_key_variable)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """Hold the connections to the endpoint."""
        from openai import AsyncOpenAI

        self.check()
        # The client's own retries do not hold back the other questions; ours do.
        async with AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self.base_url,
            max_retries=0,
            timeout=None,
            default_headers={"Accept-Encoding": "identity"},
            http_client=limited_client(),
        ) as client:
            self._client = client
            try:
                yield
            finally:
                self._client = None

    async def compare(self, first: Float[Tensor, "3 h1 w1"], second: Float[Tensor, "3 h2 w2"], prompt: str) -> Verdict:
        """Show two images, and ask which is the more realistic.

        UnavailableError if no attempt brought an answer; RefusedError if the endpoint refuses all questions;
        IdentityChangedError if the endpoint refuses ``answer_format=json``; it is ``lines`` from then on.
        """
        return await self._ask("compare", {"Image 1": first, "Image 2": second}, prompt)

    async def judge_single(self, image: Float[Tensor, "3 height width"], prompt: str) -> Verdict:
        """Show an image, and ask whether it is real; raises as ``compare`` does."""
        return await self._ask("single", {"": image}, prompt)

    async def _ask(self, kind: Kind, images: Mapping[str, Tensor], prompt: str) -> Verdict:
        answer_format, form = self.answer_format, FORMS[kind]  # of this question; another one may change the judge's
        write = partial(jpeg_data_url, quality=self.quality, max_side=self.max_side)
        urls = {label: await asyncio.to_thread(write, image) for label, image in images.items()}
        message = user_message(self.questions.text(kind, answer_format, prompt), urls, detail=self.detail)
        request: dict[str, Any] = {"model": self.model, "messages": [message], **self._settings}
        if answer_format == "json":
            request["response_format"] = form.response_format()
        completion, attempts = await self._retrier.call(partial(self._attempt, request))
        if not completion.finished and not self._warned:  # such replies cost tokens, and most of them cannot be read
            self._warned = True
            cause = "by the endpoint's or your max_tokens, or by a filter"
            _LOGGER.warning("%s: a reply was cut off after %d tokens %s.", self.model, completion.tokens_out, cause)
        choice, reason = form.read(completion.text, answer_format, finished=completion.finished)
        return Verdict(
            choice=choice,
            reason=mask(reason, self._key),
            reply=mask(completion.text, self._key),
            tokens_in=completion.tokens_in,
            tokens_out=completion.tokens_out,
            requests=attempts,
        )

    async def _attempt(self, request: Mapping[str, Any]) -> Completion:
        import openai

        create = self._client.chat.completions.with_raw_response.create
        try:
            async with deadline(self.retry.timeout):
                raw = await create(**request, extra_body=self._extra_body or None)
        except openai.APIStatusError as error:
            self._retrier.pause(retry_after(error.response.headers, now=time.time()))
            raise self._failure(error, in_json="response_format" in request) from None
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, TransientError):
                raise error.__cause__ from None
            raise TransientError(f"no connection ({type(error.__cause__ or error).__name__})") from None
        response = raw.http_response
        self._retrier.pause(retry_after(response.headers, now=time.time()))
        try:
            return read_completion(parse_json(response.text))
        except MalformedReplyError as error:
            raise TransientError(quoted(str(error), self._key)) from None
        except ValueError:
            raise TransientError("the answer is no JSON") from None

    def _failure(self, error: openai.APIStatusError, *, in_json: bool) -> Exception:
        """Return the exception for an error answer: whether to ask again, to give up this question, or all of them."""
        status, text = error.status_code, error.message
        said = f"the endpoint answered {status}: {quoted(text, self._key)}"
        if 300 <= status < 400:
            return RefusedError(
                f"{self.model}: the endpoint answered {status}, a redirect, and none is followed: images and key go "
                "where base_url says."
            )
        if status in _REFUSALS or error.code == _QUOTA:
            return RefusedError(f"{self.model}: {said}")
        names_format = error.param == "response_format" or re.search("response_?format|json_?schema", text, re.I)
        if in_json and status in _FORMAT_REFUSALS and names_format:
            if self.answer_format == "json":
                self.answer_format = "lines"
                _LOGGER.warning("%s: %s; it is asked to answer in two lines from now on.", self.model, said)
            return IdentityChangedError(f"{self.model}: {said}")
        if status in _TRANSIENT or status >= 500:
            return TransientError(said)
        return UnavailableError(f"{self.model}: {said}")
