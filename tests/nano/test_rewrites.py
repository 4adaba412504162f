"""The pairs that the nano language model learns from."""

import numpy as np
import pytest

from experiments.nano.captions import PHOTO_CUES, SYNTHETIC_CUES, split_prompts
from experiments.nano.rewrites import MOST_CUES, UNSEEN_PROMPTS, added_cues, draw_completion, draw_prompt
from realgen.policies.chat import clean, parse_answer


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    rng = np.random.default_rng(0)
    return [draw_prompt(rng) for _ in range(3000)]


def test_two_prompts_of_five_are_of_photographs_and_none_is_held_out(prompts):
    train, held_out = ({prompt for _, prompt in part} for part in split_prompts())
    assert sum(prompt in train for prompt in prompts) / len(prompts) == pytest.approx(0.4, abs=0.04)
    assert not held_out & set(prompts)
    assert len(set(prompts) - train) > 1000


def test_prompts_are_clean_and_some_are_of_other_scripts(prompts):
    assert all(prompt and prompt == clean(prompt) for prompt in prompts)
    foreign = sum(any(ord(letter) > 127 for letter in prompt) for prompt in prompts)
    assert 0.06 < foreign / len(prompts) < 0.14


def test_main_words_of_unseen_prompts_are_unseen(prompts):
    seen = {word for prompt in prompts for word in prompt.split()}
    assert all(any(word not in seen for word in prompt.split()) for prompt in UNSEEN_PROMPTS)


def test_completions_keep_the_prompt_and_add_what_was_thought():
    rng = np.random.default_rng(0)
    counts, glossy = [], 0
    for _ in range(500):
        completion = draw_completion("a cat", rng)
        cues = added_cues("a cat", parse_answer(completion))
        assert 1 <= len(cues) == len(set(cues)) <= MOST_CUES
        assert cues[0] in PHOTO_CUES
        assert set(cues) <= {*PHOTO_CUES, *SYNTHETIC_CUES}
        assert completion.startswith(f"<think>as a photo: {', '.join(cues)}</think>")
        counts.append(len(cues))
        glossy += sum(cue in SYNTHETIC_CUES for cue in cues[1:])
    shares = [counts.count(number) / 500 for number in (1, 2, 3, 4)]
    assert shares == pytest.approx([0.25, 0.75 * 0.25, 0.75**2 * 0.25, 0.75**3], abs=0.07)
    assert glossy / (sum(counts) - 500) == pytest.approx(0.75, abs=0.07)


@pytest.mark.parametrize(
    ("text", "cues"),
    [
        ("a cat", ()),
        ("a cat, film grain", ("film grain",)),
        ("a cat, film grain, raw photo", ("film grain", "raw photo")),
        ("a catalogue, film grain", None),
        ("two cats, film grain", None),
        ("", None),
    ],
)
def test_added_cues(text, cues):
    assert added_cues("a cat", text) == cues
