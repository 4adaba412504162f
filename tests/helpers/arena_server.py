"""A server on loopback that speaks the chat-completions API, and looks at the images it is shown."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from PIL import Image, ImageStat

from tests.helpers.hostile_server import HostileServer, hostile_server, say

Answer = Callable[[Any, int], None]


class Question(NamedTuple):
    """One request, read as an endpoint reads it."""

    body: dict[str, Any]
    headers: dict[str, str]
    texts: list[str]
    """Text parts of its only message, in order."""
    images: list[Image.Image]
    """Image parts, in order."""


def read_question(request: tuple[dict[str, str], bytes]) -> Question:
    """Read a kept request.

    Raises:
        AssertionError: If it is none of the API.
    """
    headers, content = request
    body = json.loads(content)
    (message,) = body["messages"]
    assert message["role"] == "user"
    texts, images = [], []
    for part in message["content"]:
        if part["type"] == "text":
            texts.append(part["text"])
        else:
            kind, data = part["image_url"]["url"].split(";base64,")
            assert kind == "data:image/jpeg"
            images.append(Image.open(io.BytesIO(base64.b64decode(data, validate=True))))
    return Question(body, headers, texts, images)


def completion(text: str | None, *, tokens: tuple[int, int] = (100, 10), **message: Any) -> dict[str, Any]:
    """The body of an answer."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "judge",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text, **message}}
        ],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
    }


def reply(text: str | None, **headers: str) -> Answer:
    """A good answer that says so."""
    return say(200, completion(text), Content_Type="application/json", **headers)


def says(verdict: str, reason: str = "", **headers: str) -> Answer:
    """A good answer about a pair in the form of its schema."""
    return reply(json.dumps({"more_realistic_image": verdict, "reason": reason}), **headers)


def fail(status: int, message: str = "no", code: str | None = None, **headers: str) -> Answer:
    """An error as the API writes it."""
    error = {"error": {"message": message, "type": "error", "param": None, "code": code}}
    return say(status, error, Content_Type="application/json", **headers)


def in_turn(*answers: Answer) -> Answer:
    """One answer after the other; the last one for ever."""

    def answer(handler: Any, number: int) -> None:
        answers[min(number, len(answers) - 1)](handler, number)

    return answer


def brightness(image: Image.Image) -> float:
    return ImageStat.Stat(image.convert("L")).mean[0]


def prefers_bright(handler: Any, number: int) -> None:
    """Of a pair the brighter image is the more realistic one; alone, one that is brighter than mid-grey is real.

    The answer is in the form that was asked for.
    """
    question = read_question(({}, handler.body))
    levels = [brightness(image) for image in question.images]
    if len(levels) == 1:
        heading, verdict, reason = (
            "Real or Fake",
            "Real" if levels[0] > 128 else "Fake",
            f"It is {levels[0]:.0f} bright.",
        )
    else:
        heading, verdict = "More Realistic Image", f"Image {1 + (levels[1] > levels[0])}"
        reason = f"{levels} bright."
    if "response_format" in question.body:
        text = json.dumps({heading.lower().replace(" ", "_"): verdict, "reason": reason})
    else:
        text = f"**{heading}:** {verdict}\n**Reason:** {reason}"
    reply(text)(handler, number)


def refuses_schemas(handler: Any, number: int) -> None:
    """As ``prefers_bright``, but the endpoint does not know ``response_format``."""
    knows = "response_format" not in json.loads(handler.body)
    (prefers_bright if knows else fail(400, "response_format is not supported"))(handler, number)


@contextmanager
def arena_server(answer: Answer | Sequence[Answer] = prefers_bright) -> Iterator[HostileServer]:
    """Serve at ``server.url + "/v1"``; several answers are given in turn."""
    with hostile_server(answer if callable(answer) else in_turn(*answer)) as server:
        yield server
