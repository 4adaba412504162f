"""Captions: counts, and a split in which validation holds new combinations of known words."""

import numpy as np

from experiments.nano.captions import OPENINGS, PHOTO_CUES, SYNTHETIC_CUES, cued_caption, plain_prompts, split_prompts
from experiments.nano.photographs import SUBJECTS

TRAIN, VALIDATION = split_prompts()


def test_counts():
    # 20 subjects x 4 names x 6 openings = 480; one of six is held out
    assert len(TRAIN) == 400
    assert len(VALIDATION) == 80
    for prompts, number in ((TRAIN, 20), (VALIDATION, 4)):
        assert [sum(owner == index for owner, _ in prompts) for index in range(20)] == [number] * 20


def test_split_is_disjoint_and_whole():
    train, validation = ({prompt for _, prompt in prompts} for prompts in (TRAIN, VALIDATION))
    assert not train & validation
    assert train | validation == {prompt for subject in SUBJECTS for prompt in plain_prompts(subject)}
    assert len(train | validation) == 480


def test_every_name_and_opening_is_trained_on():
    train = set(TRAIN)
    for index, subject in enumerate(SUBJECTS):
        for name in subject.names:
            assert any((index, opening + name) in train for opening in OPENINGS)
    for opening in OPENINGS:
        assert any((index, opening + name) in train for index, subject in enumerate(SUBJECTS) for name in subject.names)


def test_every_opening_is_held_out_somewhere():
    for opening in OPENINGS:
        names = {opening + name for subject in SUBJECTS for name in subject.names}
        assert any(prompt in names for _, prompt in VALIDATION)


def test_prompts_belong_to_their_subject():
    for index, prompt in TRAIN + VALIDATION:
        assert any(prompt.endswith(name) for name in SUBJECTS[index].names)


def test_cued_caption_is_a_plain_prompt_and_one_to_three_different_cues():
    rng = np.random.default_rng(0)
    lengths = set()
    for _ in range(100):
        prompt, *cues = cued_caption(SUBJECTS[5], rng, PHOTO_CUES).split(", ")
        assert prompt in plain_prompts(SUBJECTS[5])
        assert set(cues) <= set(PHOTO_CUES)
        assert len(set(cues)) == len(cues)
        lengths.add(len(cues))
    assert lengths == {1, 2, 3}


def test_cues_of_both_looks_differ():
    assert not set(PHOTO_CUES) & set(SYNTHETIC_CUES)
    assert not any(cue in prompt for cue in PHOTO_CUES + SYNTHETIC_CUES for _, prompt in TRAIN + VALIDATION)


def test_cued_caption_is_a_function_of_the_seed():
    first, again = (cued_caption(SUBJECTS[0], np.random.default_rng(7), SYNTHETIC_CUES) for _ in range(2))
    assert first == again
