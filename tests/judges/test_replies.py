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


# As language models write, with what a person reads; those below are read, those after them are too, or are None.
READ = [
    ("1. More Realistic Image: Image 2\n2. Reason: Hands.", "second"),
    ("**Answer:** 2.", "second"),
    ("**Answer:**\nMore Realistic Image: Image 1\nReason: Light.", "first"),
    ("## More Realistic Image\n\nImage 1\n\n## Reason\nPores.", "first"),
    ("| More Realistic Image | Image 2 |", "second"),
    ("More Realistic Image\uff1aImage 2", "second"),
    ("More Realistic Image: Image 2 Reason: natural light.", "second"),
    ("More Realistic Image: Image 1. Image 2 has six fingers.", "first"),
    ("More Realistic Image: Image 2<|im_end|>", "second"),
    ("More Realistic Image: ~~Image 1~~ Image 2", "second"),
    (
        "More Realistic Image: Image 2\nReason: At first Image 1 looks more realistic, but its hands are wrong.",
        "second",
    ),
    ("More Realistic Image: Image 1\nReason: the people wait at stop 2.", "first"),
    ("Conclusion: the hands decide.\nMore Realistic Image: Image 1", "first"),
    ('{"answer": 2}', "second"),
    ("{'answer': 'Image 2'}", "second"),
    ('{"reason": "Image 1 looks painted", "more_realistic_image": 2}', "second"),
    ('So:\n```json\n{\n  "moreRealisticImage": "Image 1",\n  "reason": "Pores, unlike image 2"\n}\n```', "first"),
    ('```json\n{"result": {"winner": "image_2", "confidence": 0.9}}\n```', "second"),
    ("The answer is \\boxed{2}. Image 1 is too smooth.", "second"),
    ("<|begin_of_box|>Image 2<|end_of_box|>", "second"),
    ("\u25c1think\u25b7Image 1 looks more realistic.\u25c1/think\u25b7More Realistic Image: Image 2", "second"),
    ("[THINK]Image 1 looks more realistic.[/THINK]\nMore Realistic Image: Image 2", "second"),
    ("Answer: Image 2 over Image 1", "second"),
    ("Answer: Image 2, not Image 1", "second"),
    ("My choice: Image 2 (85% confidence)", "second"),
    ("Most realistic: Image 1\nLeast realistic: Image 2", "first"),
    ("Wait, image 2 has six fingers? Yes.\n\nMore Realistic Image: Image 1", "first"),
    ("After weighing everything, I'd go with Image 2.", "second"),
    ("**Image 2** is more likely to be a real photograph, because of the grain.", "second"),
    ("Image 2 looks more like a real photograph than Image 1.", "second"),
    ("Image 2 looks synthetic, so Image 1 is more realistic.", "first"),
    ("**Image 2 is more realistic.**\n\nReason: Both are good, but Image 1 has waxy skin.", "second"),
    ("Image 1 has plastic skin. Image 2 shows grain.\n\n**Image 2**", "second"),
    ("Image 2, because the light is natural.", "second"),
]
NEVER_WRONG = [
    ("More Realistic Image: Image 1.5", None),
    ("More Realistic Image: Image 1-2", None),
    ("More Realistic Image: Image A/B", None),
    ("More Realistic Image: Image one or two", None),
    ("Answer: -1", None),
    ("Answer: 1/2", None),
    ("Answer: 2 images look generated", None),
    ("Answer: First, let me look at the hands.", None),
    ("More Realistic Image: Image 1 is fake, so Image 2", "second"),
    ("More Realistic Image: Image 1 looks fake; the other is real", "second"),
    ("More Realistic Image: Neither is realistic, but if forced, Image 2", "second"),
    ("More Realistic Image: Image 1\nWait, Image 2 is more realistic.", "second"),
    ("More Realistic Image: Image 1. Actually, Image 2.", "second"),
    ("More Realistic Image: Image 1, no wait, Image 2", "second"),
    ("More Realistic Image: Image 1\nFinal answer: Image 2", None),
    ("More Realistic Image: Image 1\nReason: Image 2 is more realistic.", None),
    ("More Realistic Image: Image 1\n(I couldn't actually view the images.)", None),
    ("More Realistic Image: Image 1 or Image 2\nReason: one or two sentences", None),
    ("Verdict: Image 1: 4/10, Image 2: 8/10", "second"),
    ("Verdict: Image 1 (4/10), Image 2 (8/10)", "second"),
    ("Verdict: Image 1 - fake, Image 2 - real", "second"),
    ("Verdict: Image 2 has waxy skin, so it is the fake.", "first"),
    ("Verdict:\n1. Lighting: Image 2 is better\n2. Skin: Image 2 is better", "second"),
    ("| Criterion | Image 1 | Image 2 |\n|---|---|---|\n| Verdict | worse | better |", "second"),
    ("I choose Image 1 as the fake one.", "second"),
    ("I prefer Image 1, aesthetically. For realism, Image 2.", "second"),
    ("I choose 2 details to compare.", None),
    ("I refuse to choose Image 1.", None),
    ("It is false that Image 1 is more realistic.", "second"),
    ("At the first glance, Image 1 looks more realistic. It is a rendering.", "second"),
    ("Image 1 looks more realistic in terms of color, but overall the other one wins.", "second"),
    ("Image 1 looks more realistic than I expected. However, Image 2 is the photograph.", "second"),
    ("Some people would say Image 1 looks more realistic.", None),
    ("Neither Image 1 nor Image 2 is more realistic.", None),
    ("I count 2 flaws in Image 1 and 1 in Image 2.", None),
    ("**Image 1:**\n- sharp\n\n**Image 2:**\n- waxy", None),
    ("Image 1: a cat on a sofa, natural light.", None),
    ("AI-generated image:\nImage 2", "first"),
    ("[x] Image 1\n[ ] Image 2", "first"),
    ("Image 1 \u274c", "second"),
    ("Lighting\n1. ...\n2.", None),
    ('{"image_1": "fake", "image_2": "real"}', "second"),
    ('{"answer": ["Image 1", "Image 2"]}', None),
    ('{"answer": true}', None),
    ("\u7b2c\u4e00\u5f20", "first"),
    ("Image 1\u66f4\u771f\u5b9e", "first"),
    ("L'image 2 est la plus r\u00e9aliste.", "second"),
    ("Imagen 1", "first"),
]
SINGLE_READ = [
    ("Real or Fake: AI generated", "fake"),
    ("Real or Fake: Fake/AI-generated", "fake"),
    ("Real or Fake? Generated by AI", "fake"),
    ("1. Real or Fake: Real\n2. Reason: There are no AI artifacts, no fake bokeh.", "real"),
    ("Real or Fake: Real Reason: natural noise", "real"),
    ('{"real_or_fake": "Fake", "reason": "Not a real hand."}', "fake"),
    ("Fake\n\nReason: hands", "fake"),
    ("This appears to be a real photograph.", "real"),
    ("The image was generated by AI.", "fake"),
]
SINGLE_NEVER_WRONG = [
    ("Real or Fake: Not real", "fake"),
    ("Real or Fake: Real, but AI-enhanced", "fake"),
    ("Real or Fake: Real but digitally altered", None),
    ("Real or Fake: Real: 70%, Fake: 30%", None),
    ("Real or Fake: Real. Actually, fake.", "fake"),
    ("Real or Fake: Real or Fake\nReason: one or two sentences", None),
    ("The image is real-looking.", None),
    ("The image looks real but has telltale signs of AI.", "fake"),
    ("The image appears real at first glance. The hands say otherwise.", "fake"),
    ("The text in this image is real.", None),
    ("It is real hard to say.", None),
    ('{"is_real": false}', "fake"),
    ("\u771f\u5b9e", "real"),
]


def mirrored(reply, truth):
    """The same about the other image, where only digits name the images."""
    if re.search("first|second|one|two|Image A", reply):
        return reply, truth
    other = {"first": "second", "second": "first"}
    return re.sub(r"(?<!\d)[12](?!\d)", lambda match: {"1": "2", "2": "1"}[match[0]], reply), other.get(truth, truth)


@pytest.mark.parametrize(("reply", "truth"), READ)
def test_what_models_write_is_read(reply, truth):
    assert parse_comparison(reply).choice == truth
    reply, truth = mirrored(reply, truth)
    assert parse_comparison(reply).choice == truth


@pytest.mark.parametrize(("reply", "truth"), SINGLE_READ)
def test_what_models_write_of_one_image_is_read(reply, truth):
    assert parse_single(reply).choice == truth


@pytest.mark.parametrize(("reply", "truth"), NEVER_WRONG)
def test_a_person_never_reads_another_verdict(reply, truth):
    assert parse_comparison(reply).choice in {truth, None}
    reply, truth = mirrored(reply, truth)
    assert parse_comparison(reply).choice in {truth, None}


@pytest.mark.parametrize(("reply", "truth"), SINGLE_NEVER_WRONG)
def test_a_person_never_reads_another_verdict_of_one_image(reply, truth):
    assert parse_single(reply).choice in {truth, None}


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ("More Realistic Image: Image 1\nReason: The li", "first"),
        ('{\n  "answer": 1,\n  "reason": "The li', "first"),
        ("More Realistic Image: Image 1", None),  # " or Image 2" may have been to come
        ("Image 1 looks more realistic.\nBut look at the", None),
        ("Let me see.\nImage 1", None),
    ],
)
def test_of_a_reply_that_was_cut_off_only_whole_answer_lines_count(reply, choice):
    assert parse_comparison(reply, finished=False).choice == choice


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
    "piece",
    [
        *("image ", "this is a ", "\n", "* ", "<think>", "</think>", "Reason", "more realistic", " ", "! ", "1. "),
        *("{", '{"a":', "answer: ", "answer\n", "answer (", "image 1 is more realistic ", "\\boxed{", "it is likely "),
        *("image 1, ", "image 1\n", "wait a b c ", "this is real. "),
    ],
)
def test_a_long_reply_is_read_in_linear_time(piece):
    assert parse_comparison(piece * 10_000).choice is None
    assert parse_single(piece * 10_000).choice is None
