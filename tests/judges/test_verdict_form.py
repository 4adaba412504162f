"""Replies of judges, in the requested form, in nearly that form, and in none."""

import json
import time

import pytest

from realgen.judges.verdict_form import FORMS

COMPARE, SINGLE = FORMS["compare"], FORMS["single"]

LINES = {
    "More Realistic Image: Image 1\nReason: Natural skin.": "Natural skin.",
    "more realistic image: image 1": "",
    "**More Realistic Image:** Image 1\n\n**Reason:** Image 2 has a waxy face.": "Image 2 has a waxy face.",
    "**More Realistic Image: Image 1**\n*Reason:* Two\nlines.": "Two\nlines.",
    "### More Realistic Image: `Image 1`.": "",
    "More Realistic Image: [Image 1]\nReason:": "",
    "More Realistic Image:\u00a0Image 1\r\nReason: The light.\r\n": "The light.",
    "<think>More Realistic Image: Image 2</think>\nMore Realistic Image: Image 1\nReason: Hands.": "Hands.",
}
"""All of them say the first image; what they give as the reason."""
NO_LINES = [
    "",
    "   \n",
    "I'm sorry, but I can't help with that.",
    "Image 1",
    "Image 1 looks more realistic.",
    "I would say:\nMore Realistic Image: Image 1\nReason: Hands.",
    'Asked for "More Realistic Image: Image 1", I refuse.',
    '"More Realistic Image: Image 1"',
    "> More Realistic Image: Image 1",
    "More Realistic Image: [Image 1 or Image 2]\nReason: one or two sentences",
    "More Realistic Image: Image 1 or Image 2",
    "More Realistic Image: Image 1, because Image 2 looks rendered.",
    "More Realistic Image: Image 1?",
    "More Realistic Image: not Image 1",
    "More Realistic Image: [Image 1",
    "More Realistic Image: Image 12",
    "More Realistic Image: Image 3",
    "More Realistic Image: Tie",
    "More Realistic Image:",
    "More Realistic Image: Image 1\nMore Realistic Image: Image 2",
    "More Realistic Image: Image 1\nReason: Light.\n**More Realistic Image:** Image 2",
    "More Realistic Image: Image 1\n(I could not view the images.)",
    "<think>More Realistic Image: Image 1",
    "Real or Fake: Real",
    '{"more_realistic_image": "Image 1", "reason": "Light."}',
]
OBJECT = {"more_realistic_image": "Image 2", "reason": "Light. "}
NO_JSON = [
    "",
    "More Realistic Image: Image 2\nReason: Light.",
    "Image 2",
    '"Image 2"',
    json.dumps([OBJECT]),
    json.dumps(list(OBJECT.items())),
    json.dumps({"answer": OBJECT}),
    json.dumps({**OBJECT, "more_realistic_image": "image 2"}),
    json.dumps({**OBJECT, "more_realistic_image": "Image 1 or Image 2"}),
    json.dumps({**OBJECT, "more_realistic_image": 2}),
    json.dumps({**OBJECT, "more_realistic_image": ["Image 2"]}),
    json.dumps({**OBJECT, "reason": None}),
    json.dumps({**OBJECT, "confidence": 0.9}),
    json.dumps({"more_realistic_image": "Image 2"}),
    '{"more_realistic_image": "Image 1", "more_realistic_image": "Image 2", "reason": "Light."}',
    json.dumps(OBJECT) + json.dumps(OBJECT),
    f"My answer: {json.dumps(OBJECT)}",
    f"<think>{json.dumps(OBJECT)}",
    json.dumps(OBJECT)[:-1],
    "[" * 100_000,
]


def test_two_lines_are_read_of_either_image():
    for reply, reason in LINES.items():
        assert COMPARE.read(reply, "lines") == ("first", reason), reply
        other = reply.translate(str.maketrans("12", "21"))
        assert COMPARE.read(other, "lines") == ("second", reason.translate(str.maketrans("12", "21"))), other


def test_an_object_is_read():
    for reply in (
        json.dumps(OBJECT),
        json.dumps(OBJECT, indent=2) + "\n",
        f"```json\n{json.dumps(OBJECT)}\n```",
        f"<think>Image 1 {{}}</think>\n{json.dumps(OBJECT)}",
    ):
        assert COMPARE.read(reply, "json") == ("second", "Light."), reply


def test_single_verdicts_are_read():
    assert SINGLE.read("Real or Fake: Real\nReason: No sign of a fake.", "lines") == ("real", "No sign of a fake.")
    assert SINGLE.read("**Real or Fake:** *fake*.", "lines").choice == "fake"
    assert SINGLE.read('{"real_or_fake": "Fake", "reason": "Hands."}', "json") == ("fake", "Hands.")


@pytest.mark.parametrize(("answer_format", "replies"), [("lines", NO_LINES), ("json", NO_JSON)])
def test_any_other_form_is_no_verdict(answer_format, replies):
    assert not {
        reply: COMPARE.read(reply, answer_format).choice
        for reply in replies
        if COMPARE.read(reply, answer_format).choice
    }
    for reply in (
        "This image is real.",
        "Real or Fake: Real or Fake",
        "Real or Fake: not real",
        "Real or Fake: Likely real",
    ):
        assert SINGLE.read(reply, "lines") == (None, "")


def test_a_verdict_that_was_cut_off_counts_only_with_a_line_behind_it():
    assert COMPARE.read("More Realistic Image: Image 1\nReason: The li", "lines", finished=False) == ("first", "The li")
    for reply in (
        "More Realistic Image: Image 1",
        "More Realistic Image: Image 1\n",
        "More Realistic Image: Image 1\nRea",
    ):
        assert COMPARE.read(reply, "lines", finished=False).choice is None, reply


def test_the_questions_own_words_are_no_verdict():
    """A model that only repeats how it is to answer has said nothing."""
    for form in FORMS.values():
        for answer_format in ("json", "lines"):
            instructions = form.instructions(answer_format)
            assert form.read(instructions, answer_format).choice is None
            assert form.read(instructions.partition("\n")[2], answer_format).choice is None


def test_the_schema_admits_the_two_choices_and_a_reason():
    for form in FORMS.values():
        schema = form.response_format()["json_schema"]
        assert schema["strict"]
        properties = schema["schema"]["properties"]
        assert list(properties) == schema["schema"]["required"]  # the verdict first, as in the published lines
        assert schema["schema"]["additionalProperties"] is False
        for name in properties[form.field]["enum"]:
            assert form.read(json.dumps({form.field: name, "reason": ""}), "json").choice == form.choices[name]


def test_a_long_reply_is_read_in_linear_time():
    begin = time.monotonic()
    for piece in (
        "image ",
        "\n",
        " \n",
        "* ",
        "<think>",
        "</think>",
        "Reason",
        " ",
        "[",
        "{",
        '{"a":',
        "More Realistic Image: ",
    ):
        for answer_format in ("json", "lines"):
            assert COMPARE.read(piece * 50_000, answer_format).choice is None
            assert COMPARE.read(f"More Realistic Image:{piece * 50_000}Image", answer_format).choice is None
    assert time.monotonic() - begin < 10
