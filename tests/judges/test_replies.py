"""What judges write, as they write it: read with certainty, or not at all."""

import re

import pytest

from realgen.judges.replies import parse_comparison, parse_single

FIRST = [
    "More Realistic Image: Image 1\nReason: Natural skin.",
    "more realistic image: image 1",
    "**More Realistic Image:** Image 1\n\n**Reason:** Image 2 has a waxy face.",
    "**More Realistic Image: Image 1**\n*Reason:* Image 2 is less sharp.",
    "More Realistic Image: **Image 1**",
    "### More Realistic Image: Image 1",
    "- More realistic image - image 1",
    "> `More Realistic Image`: `Image 1`",
    "More Realistic Image: [Image 1]",
    "More Realistic Image: Image #1.",
    'More Realistic Image: "Image 1"',
    "More Realistic Image: \u201cImage 1\u201d",
    "More Realistic Image:\u00a0Image\u00a01",
    "More Realistic Image: 1",
    "More Realistic Image:\nImage 1\nReason: The light.",
    "More Realistic Image: Image 1 (compared with Image 2, whose hands have six fingers)",
    "More Realistic Image: Image 1, because Image 2 looks rendered.",
    "More Realistic Image: The first image",
    "The more realistic image is Image 1.",
    "Most realistic image: Image 1",
    "Answer: Image 1",
    "Final answer: **Image 1**",
    "Verdict: Image A",
    "<answer>Image 1</answer>",
    "<think>Image 2 looks more realistic at first, but no.</think>\nMore Realistic Image: Image 1",
    "Let me look closely.\nImage 2 has strange hands.\n\nMore Realistic Image: Image 1\nReason: Hands.",
    "Image 1 looks more realistic. The skin in Image 2 is plastic.",
    "Image 1 appears to be slightly more natural than Image 2.",
    "I choose Image 1 since its shadows agree.",
    "The first image is more realistic.",
    "Image 1",
    "1",
    "More Realistic Image: $\\boxed{\\text{Image 1}}$",
]
TIES = [
    "More Realistic Image: Tie",
    "**More Realistic Image:** Both\nReason: They look the same.",
    "More Realistic Image: Neither",
    "More Realistic Image: equally realistic",
    "Verdict: it is a tie",
]
UNREADABLE = [
    "",
    "   \n",
    "I'm sorry, but I can't help with that.",
    "I cannot determine which image is real.",
    "More Realistic Image: Image 1 or Image 2",
    "More Realistic Image: Image 1 / Image 2",
    "More Realistic Image: Image 1 and Image 2",
    "More Realistic Image: Image 3",
    "More Realistic Image: Image 12",
    "More Realistic Image:",
    "More Realistic Image: none of your business",
    "More Realistic Image: Image 1\nMore Realistic Image: Image 2",
    "Image 1 looks more realistic, although Image 2 is more natural.",
    "Image 1 is less realistic. Image 2 has six fingers.",
    "I cannot say that Image 1 looks more realistic.",
    "Image 1 is more realistic or Image 2 is.",
    "Both images have flaws. Image 1 and Image 2 show a cat.",
    "<think>Image 1 looks more realistic, so",
    "More Realistic Image: A cat",
    "More Realistic Image: Image 1 is not it",
    "More Realistic Image: Image 1 | Image 2",
    "More Realistic Image: Image 1? No, Image 2",
    '{"error": "overloaded"}',
    "Real or Fake: Real",
]


def swapped(reply):
    other = {"1": "2", "2": "1", "Image A": "Image B", "first image": "second image"}
    return re.sub(r"\b[12]\b|Image A|first image", lambda match: other[match.group()], reply)


@pytest.mark.parametrize("reply", FIRST)
def test_the_first_image_is_read(reply):
    assert parse_comparison(reply).choice == "first"


@pytest.mark.parametrize("reply", FIRST)
def test_the_same_reply_about_the_other_image_is_read_as_the_other(reply):
    assert swapped(reply) != reply
    assert parse_comparison(swapped(reply)).choice == "second"


@pytest.mark.parametrize("reply", TIES)
def test_ties_are_read(reply):
    assert parse_comparison(reply).choice == "tie"


@pytest.mark.parametrize("reply", UNREADABLE)
def test_what_is_not_certain_is_not_guessed(reply):
    assert parse_comparison(reply).choice is None


REAL = [
    "Real or Fake: Real\nReason: Natural noise.",
    "real or fake: real",
    "**Real or Fake:** Real",
    "**Real or Fake: Real**\n**Reason:** No sign of a fake.",
    "Real or Fake: `Real`.",
    "Real/Fake: Real",
    "Real or Fake:\nReal",
    "Real or Fake: Likely real",
    "Real or Fake: Authentic photograph",
    "Verdict: Real",
    "Final answer: real, not generated",
    "<think>Could be fake.</think>Real or Fake: Real",
    "This image is real. It is not easy to fake such light.",
    "The image appears to be authentic.",
    "Real",
    "real.",
]
SINGLE_UNREADABLE = [
    "",
    "I can't tell whether this image is real or fake.",
    "Real or Fake: Unknown",
    "Real or Fake: Real or Fake",
    "Real or Fake: real and fake parts",
    "Real or Fake: Real / Fake",
    "Real or Fake: Real | Fake",
    "Real or Fake: real-looking, but fake",
    "Real or Fake: Real? No, fake.",
    "Real or Fake: Real\nReal or Fake: Fake",
    "Real or Fake:",
    "I'm sorry, I can't assist with identifying people.",
    "This image is not real.",
    "I wonder if this image is real.",
    "It could be that the picture is real.",
    "It is hard to say if the picture is real; it is clearly generated.",
    "<think>Real or Fake: Real",
    "More Realistic Image: Image 1",
]


@pytest.mark.parametrize("reply", REAL)
def test_real_is_read(reply):
    assert parse_single(reply).choice == "real"


@pytest.mark.parametrize(
    "reply",
    [
        "Real or Fake: Fake\nReason: It is not a real hand.",
        "**Real or Fake:** **Fake**",
        "Real or Fake: AI-generated",
        "Real or Fake: Fake (not real)",
        "Classification: synthetic",
        "The image is likely AI-generated.",
        "This is a generated image.",
        "Fake.",
    ],
)
def test_fake_is_read(reply):
    assert parse_single(reply).choice == "fake"


@pytest.mark.parametrize("reply", SINGLE_UNREADABLE)
def test_single_verdicts_are_not_guessed(reply):
    assert parse_single(reply).choice is None


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("More Realistic Image: Image 1\nReason: Natural light.", "Natural light."),
        ("**More Realistic Image:** Image 1\n\n**Reason:** Two\nlines.", "Two\nlines."),
        ("More Realistic Image: Image 1\nExplanation - soft edges", "soft edges"),
        ("More Realistic Image: Image 1\nBecause of the hands.", "Because of the hands."),
        ("<think>Hm.</think> Image 2 looks more realistic.", "Image 2 looks more realistic."),
        ("", ""),
    ],
)
def test_the_reason_is_kept(reply, reason):
    assert parse_comparison(reply).reason == reason


@pytest.mark.parametrize(
    "piece", ["image ", "this is a ", "\n", "* ", "<think>", "</think>", "Reason", "more realistic", " "]
)
def test_a_long_reply_is_read_in_linear_time(piece):
    assert parse_comparison(piece * 50_000).choice is None
    assert parse_single(piece * 50_000).choice is None
