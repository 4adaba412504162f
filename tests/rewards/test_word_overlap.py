"""Words in any script, and what a rewrite made of them."""

import time

import pytest

from realgen.rewards import LengthWindow
from realgen.rewards.word_overlap import (
    FUNCTION_WORDS,
    IRREGULAR,
    added_ngrams,
    content_kept,
    content_words,
    invented,
    mean_overlaps,
    singular,
    words,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \t\n", []),
        ("a\x00cat\x1b[31mred", ["a", "cat", "31mred"]),
        ("half\ud800surrogate", ["half", "surrogate"]),
        ("a\u200bb", ["a", "b"]),  # a space without width
        ("gra\u00adin \u202ecat\u202c", ["grain", "cat"]),  # a soft hyphen, a reversal
        ("CAF\u00c9 cafe\u0301", ["caf\u00e9", "caf\u00e9"]),  # composed and decomposed
        ("STRASSE stra\u00dfe \ufb01lm", ["strasse", "strasse", "film"]),
        ("\u03aa\u0301 \u0390", ["\u0390", "\u0390"]),  # Greek, whose case folding decomposes
        ("don't rock 'n' roll, the cat's", ["don't", "rock", "n", "roll", "the", "cat"]),
        ("the cats\u2019 and the cat\u2019s", ["the", "cats", "and", "the", "cat"]),
        ("well-lit, 35mm, f/1.8, snake_case", ["well", "lit", "35mm", "f", "1", "8", "snake", "case"]),
        ("собака на диване", ["собака", "на", "диване"]),
        ("\u0642\u0637\u0629 \u0639\u0644\u0649", ["\u0642\u0637\u0629", "\u0639\u0644\u0649"]),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", ["\u0645\u06cc\u062e\u0648\u0627\u0647\u0645"]),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", ["\u0939\u093f\u0928\u094d\u0926\u0940"]),  # marks do not split
        ("고양이가 소파에", ["고양이가", "소파에"]),
        ("一只猫,胶片", ["一", "只", "猫", "胶", "片"]),
        ("ネコ2匹", ["ネ", "コ", "2", "匹"]),
        ("\u0e41\u0e21\u0e27\u0e19\u0e31\u0e48\u0e07", ["\u0e41", "\u0e21", "\u0e27", "\u0e19\u0e31\u0e48", "\u0e07"]),
        ("🐱🐱 ❤\ufe0f ❤ 👍🏽", ["🐱", "🐱", "❤", "❤", "👍"]),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("cat", "cats"), ("city", "cities"), ("box", "boxes"), ("bush", "bushes"), ("church", "churches"),
        ("glass", "glasses"), ("horse", "horses"), ("house", "houses"), ("potato", "potatoes"), ("shoe", "shoes"),
        ("woman", "women"), ("lens", "lenses"), ("bus", "buses"), ("pie", "pies"), ("tree", "trees"),
        ("sheep", "sheep"), ("cactus", "cactus"), ("tennis", "tennis"), ("boy", "boys"),
    ],
)  # fmt: skip
def test_plurals_are_folded(one, many):
    assert singular(one) == singular(many)


def test_different_nouns_stay_different():
    nouns = ["cat", "bat", "bus", "buses", "glass", "grass", "lens", "len", "cap", "cape", "pin", "pine", "gas", "new"]
    assert len({singular(noun) for noun in nouns}) == len(nouns) - 1  # but for bus and buses


def test_tables_hold_words_as_they_are_looked_up():
    for word in FUNCTION_WORDS | set(IRREGULAR):
        assert words(word) == [word]
    assert not FUNCTION_WORDS & set(IRREGULAR)


@pytest.mark.parametrize(
    ("prompt", "text", "expected"),
    [
        ("two cats on a sofa", "a photo of two cats on the sofa, film grain", 1),
        ("two cats on a sofa", "Two CAT, SOFAS", 1),
        ("a red cat", "category of reds", 1 / 2),  # red, and no cat inside another word
        ("a red cat", "", 0),
        ("", "anything", 1),
        ("a picture of the", "", 1),
        ("cat cat cat dog", "dog", 1 / 2),  # repeating a word does not weigh
        ("черный кот", "кот, пленка", 1 / 2),
        ("黑猫", "猫", 1 / 2),
        ("🐱 on 🛋️", "🛋", 1 / 2),
        ("a cat " * 2500, "cat", 1),
    ],
)
def test_content_kept(prompt, text, expected):
    assert content_kept(prompt, text) == pytest.approx(expected)


def test_number_words_and_colours_are_content():
    assert content_words("This is an image of three red horses, behind the barn") == ["three", "red", "horse", "barn"]


def test_invented_subjects_are_words_and_not_parts_of_words():
    subjects = ["cat", "space shuttle", "wolf"]
    assert invented(subjects, "a dog", "a category of scatter") == []
    assert invented(subjects, "a dog", "a dog and a cat") == ["cat"]
    assert invented(subjects, "the cats", "a cat's face") == []
    assert invented(subjects, "a shuttle", "a space shuttle") == ["space shuttle"]
    assert invented(subjects, "a dog", "space for a shuttle") == []
    assert invented(subjects, "", "Wolves; CATS") == ["cat", "wolf"]


def test_added_ngrams_leave_the_prompt_out():
    assert added_ngrams("a cat", "a cat with soft light", 1) == {("soft",), ("light",)}
    assert added_ngrams("soft light", "light, soft and grainy", 2) == {("grainy",)}  # shorter than two words
    assert added_ngrams("", "", 3) == {()}
    assert added_ngrams("a cat", "film cat grain", 2) == {("film", "grain")}  # the prompt's word between them is gone


def test_mean_overlaps_is_the_mean_over_pairs():
    sets = [frozenset({(w,) for w in text}) for text in ("abc", "bcd", "a", "xyz", "abc")]
    pairs = [
        sum(len(one & other) / len(one) for j, other in enumerate(sets) if j != i) / (len(sets) - 1)
        for i, one in enumerate(sets)
    ]
    assert mean_overlaps(sets) == pytest.approx(pairs)
    assert mean_overlaps([frozenset({("a",)})]) == [0]
    assert mean_overlaps([]) == []


def test_length_window_by_hand():
    counts = [0, 1, 2, 3, 5, 6, 9, 10, 11]
    expected = [0.5, 0.75, 1, 1, 1, 0.75, 0, 0, 0]
    answers = ["word " * count for count in counts]
    assert LengthWindow(2, 5, 0.25).score_answers([], answers) == expected


def test_long_texts_take_no_time_worth_speaking_of():
    text = "word's " * 5000 + "\u0301" * 5000 + "'" * 5000
    start = time.process_time()
    assert len(words(text)) == 5000
    assert LengthWindow(3, 20).score_answers([], [text]) == [0]
    assert time.process_time() - start < 5  # linear time takes a hundredth of this, quadratic time far more
