from pathlib import Path

import pytest
import yaml

from experiments.nano.captions import PHOTO_CUES, SYNTHETIC_CUES, plain_prompts
from experiments.nano.photographs import SUBJECTS
from realgen.rewards import ContentKept
from realgen.rewards.word_overlap import invented

PART = Path(__file__).resolve().parents[2] / "configs" / "rewards" / "content_kept.yaml"


@pytest.fixture
def listed():
    return yaml.safe_load(PART.read_text())["init_args"]["subjects"]


def test_what_is_lost_and_what_is_invented_costs(rewritten):
    texts = [
        "the moon, film grain",  # of moon, all
        "a film photo",  # none
        "the moon and a dog",  # all, and a dog
        "a cat with grain, soft light",  # of cat and grain, both
        "a cat in the rain",  # one
        "a cat with grain, a dog, some wolves",  # both, and two more
    ]
    scores = ContentKept(["dog", "wolf", "moon", "cat"], penalty=0.4).score(rewritten(texts))
    assert scores.tolist() == pytest.approx([1, 0, 0.6, 1, 0.5, 0.2])


def test_it_does_not_fall_below_0(rewritten):
    texts = ["dog and wolf", "moon, dog, wolf, fox", "moon", "cat", "fox", "cat grain fox"]
    scores = ContentKept(["dog", "wolf", "fox"]).score(rewritten(texts))
    assert scores.tolist() == pytest.approx([0, 0, 1, 0.5, 0, 0.5])


def test_without_subjects_nothing_is_invented(rewritten):
    assert ContentKept().score(rewritten(["moon and dogs"] * 3 + ["cat, grain, dogs"] * 3)).tolist() == [1] * 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subjects": ["cat", " - "]}, "subjects must be words or phrases, got ' - '"),
        ({"penalty": -0.1}, "penalty must be finite and >= 0, got -0.1"),
        ({"penalty": float("nan")}, "penalty must be finite and >= 0, got nan"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ContentKept(**settings)


def test_the_part_knows_every_nano_subject_and_no_cue(listed):
    assert len(SUBJECTS) == 20
    for subject in SUBJECTS:
        assert invented(listed, "", " ".join(subject.names)), subject.names
        for prompt in plain_prompts(subject):
            told = ", ".join([prompt, *PHOTO_CUES, *SYNTHETIC_CUES])
            assert not invented(listed, prompt, told)
