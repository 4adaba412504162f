"""What all rewards on rewritten prompts agree on."""

import pytest
import torch

from realgen.rewards import ContentKept, LengthWindow, RewriteFormat, SuffixDiversity
from realgen.rewards.text_reward import TextReward

REWARDS = [RewriteFormat(), LengthWindow(3, 20), ContentKept(["dog"]), SuffixDiversity()]
NASTY = [
    "dog " * 5000,
    "\u202e\ud800\x07",
    "🐱" * 300,
    "фото луны, зерно",
    "写真",
    "'" * 200,
]


def test_all_of_them_are_here():
    assert {type(reward) for reward in REWARDS} == set(TextReward.__subclasses__())


@pytest.mark.parametrize("reward", REWARDS, ids=lambda reward: reward.name)
def test_a_rollout_without_rewrites_is_refused(reward, samples):
    with pytest.raises(ValueError, match=rf"{type(reward).__name__} scores rewritten prompts, .*PromptPolicy"):
        reward(samples)


@pytest.mark.parametrize("reward", REWARDS, ids=lambda reward: reward.name)
def test_a_broken_format_gets_nothing_and_who_was_not_asked_all(reward, samples, rewritten):
    moon, cat = samples.prompts
    scores = reward.score(rewritten([None, moon, moon, None, cat, None]))
    assert scores.tolist() == [0, 1, 1, 0, 1, 0]


@pytest.mark.parametrize("reward", REWARDS, ids=lambda reward: reward.name)
def test_any_text_is_scored_in_0_to_1(reward, samples, rewritten):
    output = reward(rewritten(NASTY))
    assert bool(output.valid.all())
    assert 0 <= output.total.min() <= output.total.max() <= 1
    assert reward.score(rewritten(NASTY)).dtype == torch.float32


@pytest.mark.parametrize("reward", REWARDS, ids=lambda reward: reward.name)
def test_images_play_no_part(reward, make_samples, rewritten):
    texts = ["the moon", "a photo of the moon, film grain", "grain", "a cat", "a dog with grain", "a cat, film grain"]
    drawn = rewritten(texts)
    blank = make_samples(torch.zeros(6, 3, 0, 0), drawn.prompts, 3)
    blank = type(blank)(**{**vars(blank), "rewrites": drawn.rewrites})
    assert torch.equal(reward.score(drawn), reward.score(blank))
