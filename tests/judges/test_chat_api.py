"""Images as JPEG files in base64, and answers of the API, good and bad."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from realgen.judges.chat_api import Completion, MalformedReplyError, jpeg_data_url, read_completion, user_message
from tests.helpers.arena_server import completion


def decoded(url):
    kind, data = url.split(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


def test_an_image_arrives_as_an_rgb_jpeg_file():
    image = torch.zeros(3, 40, 24)
    image[0], image[1, :, 12:] = 0.8, 0.4
    file = decoded(jpeg_data_url(image, quality=95))
    assert (file.format, file.mode, file.size) == ("JPEG", "RGB", (24, 40))
    pixels = torch.from_numpy(np.array(file)).permute(2, 0, 1) / 255
    assert float((pixels - image).abs().mean()) < 0.01


@pytest.mark.parametrize(("shape", "size"), [((40, 80), (32, 16)), ((80, 40), (16, 32)), ((32, 20), (20, 32))])
def test_large_images_are_scaled_down_in_proportion_and_small_ones_left(shape, size):
    assert decoded(jpeg_data_url(torch.rand(3, *shape), max_side=32)).size == size


def test_quality_is_that_of_the_file():
    image = torch.rand(3, 64, 64)
    assert len(jpeg_data_url(image, quality=30)) < len(jpeg_data_url(image, quality=95)) / 2


def test_other_ranges_are_refused():
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
        jpeg_data_url(torch.full((3, 8, 8), 2.0))


def test_a_message_is_the_question_and_the_labelled_images():
    message = user_message("Which?", {"Image 1": "data:a", "": "data:b"}, detail="low")
    assert message["role"] == "user"
    assert message["content"] == [
        {"type": "text", "text": "Which?"},
        {"type": "text", "text": "Image 1:"},
        {"type": "image_url", "image_url": {"url": "data:a", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "data:b", "detail": "low"}},
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (completion("Yes"), Completion("Yes", 100, 10)),
        (completion(None), Completion("", 100, 10)),
        (completion(None, refusal="I can't."), Completion("I can't.", 100, 10)),
        (
            {"choices": [{"message": {"content": [{"type": "text", "text": "A"}, {"text": "B"}]}}]},
            Completion("AB", 0, 0),
        ),
        ({"choices": [{"message": {"content": "A"}}], "usage": None}, Completion("A", 0, 0)),
        ({"choices": [{"finish_reason": "length", "message": {"content": "A"}}]}, Completion("A", 0, 0, False)),
        ({"choices": [{"finish_reason": "content_filter", "message": {}}]}, Completion("", 0, 0, False)),
        ({"choices": [{"message": {"content": "A"}}], "usage": {"prompt_tokens": "7"}}, Completion("A", 0, 0)),
    ],
)
def test_answers_are_read(body, expected):
    assert read_completion(body) == expected


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "no choices"),
        ([], "no choices"),
        ("text", "no choices"),
        (None, "no choices"),
        ({"choices": []}, "no choices"),
        ({"choices": "abc"}, "no choices"),
        ({"error": {"message": "overloaded"}}, "no choices: overloaded"),
        ({"error": "busy"}, "no choices: busy"),
        ({"choices": [{}]}, "no message"),
        ({"choices": ["x"]}, "no message"),
        ({"choices": [{"message": "x"}]}, "no message"),
    ],
)
def test_malformed_answers_are_named(body, said):
    with pytest.raises(MalformedReplyError, match=said):
        read_completion(body)


@pytest.mark.attack("answers of judges", "numbers of tokens that are none")
@pytest.mark.parametrize("tokens", [10**400, -1, True, 1.5, "7", None, [7], float("nan"), 2**31])
def test_a_number_of_tokens_that_is_none_is_zero(tokens):
    body = {
        "choices": [{"message": {"content": "Hi"}}],
        "usage": {"prompt_tokens": tokens, "completion_tokens": tokens},
    }
    completion = read_completion(body)
    assert (completion.tokens_in, completion.tokens_out) == (0, 0)
    assert type(completion.tokens_in) is int
