"""Texts that users and language models may come up with."""

import pytest

from realgen.policies.chat import INSTRUCTION, TAGS, clean, parse_answer


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<think>a</think><answer>b</answer>", "b"),
        ("\n<think>\na < b\n</think>\n\n<answer>\n a cat,\n film grain </answer>\n", "a cat, film grain"),
        ("<think></think><answer>кот 猫 🐈‍⬛</answer>", "кот 猫 🐈‍⬛"),
        ("<answer>b</answer>", None),
        ("<think>a</think><answer>b", None),
        ("<think>a</think><answer>b</answer> and more", None),
        ("Sure! <think>a</think><answer>b</answer>", None),
        ("<answer>b</answer><think>a</think>", None),
        ("<think>a</think><answer></answer>", None),
        ("<think>a</think><answer> \n </answer>", None),
        ("<think>a</think></think><answer>b</answer>", None),
        ("<think>a</think><answer>b</answer><answer>c</answer>", None),
        ("<think>a</think><answer>b\ufffd</answer>", None),
        ("<think>a</think><answer>b\x07</answer>", None),
        ("", None),
    ],
)
def test_answers_are_found_in_valid_completions_only(completion, answer):
    assert parse_answer(completion) == answer


@pytest.mark.parametrize("place", ["<think>a{}</think>", "<answer>{}b</answer>"])
def test_what_is_forbidden_breaks_the_format(place):
    completion = "<think>a</think><answer>b</answer>"
    part = place.format("")
    assert parse_answer(completion, ["<|im_start|>"]) == "b"
    assert parse_answer(completion.replace(part, place.format("<|im_start|>")), ["<|im_start|>"]) is None


def test_a_long_hostile_completion_is_read_at_once():
    assert parse_answer("<think>" * 20_000 + "</think><answer>" * 20_000) is None


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a cat", "a cat"),
        ("  a\tcat\r\n\u00a0on \u2003a sofa ", "a cat on a sofa"),
        ("\x00\x1b[31ma cat\x7f", "[31ma cat"),
        ("a\ud800cat", "a cat"),
        ("a \u202ecat\u202c", "a cat"),
        ("می‌خواهم 👩‍🚀", "می‌خواهم 👩‍🚀"),
        ("<|end|>a <|<|end|>end|> cat", "a <| end|> cat"),
        (" \n\x00", ""),
    ],
)
def test_prompts_are_cleaned(text, cleaned):
    assert clean(text, ["<|end|>"]) == cleaned


def test_the_instruction_names_the_format_and_the_place_of_the_prompt():
    assert INSTRUCTION.count("{prompt}") == 1
    assert all(tag in INSTRUCTION for tag in TAGS)
    assert "\n" not in INSTRUCTION.splitlines()[1]
