import pytest

from realgen.rewards import LengthWindow


def test_counts_the_words_of_the_answer(rewritten):
    texts = ["one", "one two", "one two three", "one-two, three four", "1 2 3 4 5 6", "猫と犬の顔"]
    scores = LengthWindow(shortest=2, longest=3, slope=0.25).score(rewritten(texts))
    assert scores.tolist() == [0.75, 1, 1, 0.75, 0.25, 0.5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 5), "shortest must be 1 to longest, got 0 with longest=5"),
        ((6, 5), "shortest must be 1 to longest, got 6 with longest=5"),
        ((1, 5, 0.0), "slope must be above 0, got 0.0"),
        ((1, 5, float("nan")), "slope must be above 0, got nan"),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LengthWindow(*arguments)
