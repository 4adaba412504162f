"""The chat-completions API as judges use it: questions with images, and answers that are not trusted."""

import base64
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from realgen.functional.images import resize, to_uint8
from realgen.functional.network_input import check_images
from realgen.remote_calls import TransientError

Detail = Literal["auto", "low", "high"]

MAX_ANSWER_BYTES = 2**22
"""Largest answer that is read; the longest replies of models take a tenth of it."""
_CUT_OFF = ("length", "content_filter")  # reasons for which an endpoint ends a reply before the model does


class MalformedReplyError(ValueError):
    """An answer is not one of the chat-completions API."""


class Completion(NamedTuple):
    """The answer of an endpoint."""

    text: str
    """The reply, or the refusal; empty if the model only reasoned."""
    tokens_in: int
    """Tokens of the question, as the endpoint counts them; 0 if it does not."""
    tokens_out: int
    """Tokens of the reply, reasoning included."""
    finished: bool = True
    """Whether the text is all of the reply; False where a limit or a filter cut it off."""


def limited_client() -> Any:
    """Return an HTTP client for the package openai that follows no redirect, and reads no packed or endless answer."""
    import httpx2
    import openai

    class Limited(httpx2.AsyncByteStream):
        """An answer, counted as it comes."""

        def __init__(self, stream: httpx2.AsyncByteStream) -> None:
            self.stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for piece in self.stream:
                size += len(piece)
                if size > MAX_ANSWER_BYTES:
                    raise TransientError(f"the answer must have at most {MAX_ANSWER_BYTES} bytes, got more")
                yield piece

        async def aclose(self) -> None:
            await self.stream.aclose()

    async def limit(response: httpx2.Response) -> None:
        packed = response.headers.get("content-encoding", "identity")
        if packed != "identity":  # a few bytes may unpack into any number
            raise TransientError("the answer must not be packed, which was not asked for; it has a Content-Encoding")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = Limited(response.stream)

    return openai.DefaultAsyncHttpxClient(follow_redirects=False, event_hooks={"response": [limit]})


def jpeg_data_url(image: Float[Tensor, "3 height width"], *, quality: int = 95, max_side: int | None = None) -> str:
    """Write an image [3, H, W] in [0, 1] as a data URL: a JPEG file in base64, without chroma subsampling.

    One that is longer than ``max_side`` pixels is scaled down to it; None keeps the size. ValueError if the image is
    not in [0, 1].
    """
    batch = image.unsqueeze(0)
    check_images(batch)
    longest = max(image.shape[1:])
    if max_side is not None and longest > max_side:
        height, width = (max(1, round(side * max_side / longest)) for side in image.shape[1:])
        batch = resize(batch, (height, width))
    file = io.BytesIO()
    pixels = to_uint8(batch)[0].permute(1, 2, 0).cpu().numpy()
    Image.fromarray(pixels).save(file, format="JPEG", quality=quality, subsampling="4:4:4")
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def user_message(question: str, images: Mapping[str, str], *, detail: Detail = "auto") -> dict[str, Any]:
    """Return a user's message: the question, then each image as a data URL behind any label, seen in ``detail``."""
    content: list[dict[str, Any]] = [{"type": "text", "text": question}]
    for label, url in images.items():
        if label:
            content.append({"type": "text", "text": f"{label}:"})
        content.append({"type": "image_url", "image_url": {"url": url, "detail": detail}})
    return {"role": "user", "content": content}


def read_completion(body: Any) -> Completion:
    """Read reply or refusal, and tokens, of an answer's JSON; MalformedReplyError if no choice has a message."""
    choices = body.get("choices") if isinstance(body, Mapping) else None
    if not isinstance(choices, Sequence) or isinstance(choices, str) or not choices:
        raise MalformedReplyError(f"the answer has no choices{_error_of(body)}")
    message = choices[0].get("message") if isinstance(choices[0], Mapping) else None
    if not isinstance(message, Mapping):
        raise MalformedReplyError("the answer's first choice has no message")
    usage = body.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    text = _text(message.get("content")) or _text(message.get("refusal"))
    return Completion(
        text,
        tokens_in=_count(usage.get("prompt_tokens")),
        tokens_out=_count(usage.get("completion_tokens")),
        finished=choices[0].get("finish_reason") not in _CUT_OFF,
    )


def _text(content: Any) -> str:
    """Return the text of a message: a string, or parts of which some are text."""
    parts = content if isinstance(content, Sequence) and not isinstance(content, str) else ({"text": content},)
    texts = (part.get("text") for part in parts if isinstance(part, Mapping))
    joined = "".join(text for text in texts if isinstance(text, str))
    return joined.encode("utf-8", "replace").decode()  # half a surrogate pair, which JSON lets through, fits no file


def _count(tokens: Any) -> int:
    """Return a number of tokens; 0 where it is none, or one that no model reads."""
    return tokens if isinstance(tokens, int) and not isinstance(tokens, bool) and 0 < tokens < 2**31 else 0


def _error_of(body: Any) -> str:
    """Return the error that some servers send with status 200."""
    error = body.get("error") if isinstance(body, Mapping) else None
    said = error.get("message") if isinstance(error, Mapping) else error
    return f": {said}" if isinstance(said, str) else ""
