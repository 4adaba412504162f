import pytest
import torch

from realgen.rewards import Alignment

PROMPTS = ["a photo of the moon", "a cat with grain"]


def test_dot_is_the_raw_product_over_a_hundred(clip_folder, make_samples):
    samples = make_samples(torch.rand(4, 3, 32, 32), PROMPTS, group_size=2)
    reward = Alignment(str(clip_folder), similarity="dot", batch_size=3)
    model, tokenize = reward.network.model, reward.network.tokenize
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.48, 0.46, 0.41), (0.27, 0.26, 0.28)))
    with torch.no_grad():
        images = model.encode_image((samples.images - mean) / std)
        texts = model.encode_text(tokenize(samples.row_prompts))
    expected = (images * texts).sum(-1) / 100
    torch.testing.assert_close(reward.score(samples), expected, atol=1e-5, rtol=1e-5)
    cosine = Alignment(str(clip_folder)).score(samples)
    lengths = images.norm(dim=-1) * texts.norm(dim=-1)
    torch.testing.assert_close(cosine, 100 * expected / lengths, atol=1e-5, rtol=1e-5)


def test_length_counts_for_dot(clip_folder, make_samples):
    samples = make_samples(torch.rand(2, 3, 32, 32), PROMPTS, group_size=1)
    reward = Alignment(str(clip_folder), similarity="dot")
    before = reward.score(samples)
    with torch.no_grad():
        reward.network.model.visual.proj.mul_(7)
    torch.testing.assert_close(reward.score(samples), 7 * before)


def test_a_broken_image_is_nan_and_alone_in_it(clip_folder, make_samples):
    images = torch.rand(3, 3, 32, 32)
    images[1, 0, 0, 0] = torch.nan
    score = Alignment(str(clip_folder), similarity="dot").score(make_samples(images, ["a cat"], group_size=3))
    assert score.isnan().tolist() == [False, True, False]


def test_batch_size_is_checked(clip_folder):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got -1"):
        Alignment(str(clip_folder), batch_size=-1)
