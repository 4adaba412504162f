from dataclasses import replace

import pytest
import torch

from realgen.rewards import SuffixDiversity


def test_one_suffix_everywhere_gets_nothing(rewritten):
    texts = ["the moon, soft film grain"] * 3 + ["a cat, soft film light"] * 3
    copied = ["the moon, soft old light"] * 3 + ["a cat, soft old light"] * 3
    assert SuffixDiversity().score(rewritten(copied)).tolist() == [0] * 6
    # of the moon: soft film, film grain (the prompt has none of these); of the cat, grain is no word of its own
    assert SuffixDiversity(length=1).score(rewritten(texts)).tolist() == pytest.approx([1 / 3] * 6)
    assert SuffixDiversity(length=2).score(rewritten(texts)).tolist() == pytest.approx([0.5] * 6)
    assert SuffixDiversity(length=3).score(rewritten(texts)).tolist() == [1] * 6


def test_is_one_minus_the_mean_share_that_others_added_too(rewritten):
    texts = ["moon, red blue", "moon, red", "moon, green", "cat, red", "cat, pink", "cat, blue green"]
    scores = SuffixDiversity(length=1).score(rewritten(texts))
    # red: 3 rewrites, blue: 2, green: 2, pink: 1; each of the five others is asked
    expected = [1 - (2 / 5 + 1 / 5) / 2, 1 - 2 / 5, 1 - 1 / 5, 1 - 2 / 5, 1, 1 - (1 / 5 + 1 / 5) / 2]
    assert scores.tolist() == pytest.approx(expected)


def test_the_order_of_the_rows_is_nothing(rewritten):
    texts = ["moon, red blue", "moon, red", "moon, green", "cat, red", "cat, pink", "cat, blue green"]
    scores = SuffixDiversity().score(rewritten(texts))
    turned = SuffixDiversity().score(rewritten(texts[2::-1] + texts[:2:-1]))
    assert torch.equal(turned, torch.cat([scores[:3].flip(0), scores[3:].flip(0)]))


def test_adding_nothing_is_a_suffix_too(rewritten):
    texts = ["The moon!"] * 3 + ["grain, cat"] * 3
    assert SuffixDiversity().score(rewritten(texts)).tolist() == [0] * 6
    alone = ["The moon!", "moon, red", "moon, blue", "cat, green", "cat, pink", "cat, grey"]
    assert SuffixDiversity().score(rewritten(alone)).tolist() == [1] * 6


def test_several_images_of_a_rewrite_change_nothing(rewritten, make_samples):
    texts = ["moon, red blue", "moon, red", "moon, green", "cat, red", "cat, pink", "cat, blue green"]
    once = rewritten(texts)
    images = once.images.repeat_interleave(4, dim=0)
    fourfold = replace(
        make_samples(images, once.prompts, 12), rewrites=tuple(rewrite for rewrite in once.rewrites for _ in range(4))
    )
    reward = SuffixDiversity()
    assert torch.equal(reward.score(fourfold), reward.score(once).repeat_interleave(4))


def test_broken_rows_are_nobodys_others(rewritten):
    texts = ["moon, red", None, None, "cat, red", None, "cat, blue"]
    assert SuffixDiversity().score(rewritten(texts)).tolist() == pytest.approx([0.5, 0, 0, 0.5, 0, 1])


def test_a_length_below_1_is_refused():
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        SuffixDiversity(length=0)
