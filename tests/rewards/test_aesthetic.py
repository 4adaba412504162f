import pytest
import torch
from PIL import Image
from torch import nn
from transformers import CLIPImageProcessor, CLIPModel

from realgen.rewards import Aesthetic

PROMPTS = ["a photo of the moon", "a cat"]


def published_head(features):
    """The published module, dropout included: linear layers are number 0, 2, 4, 6 and 7."""
    layers = [nn.Linear(features, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2), nn.Linear(128, 64)]
    return nn.Sequential(*layers, nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1)).eval()


@pytest.fixture
def head():
    return published_head(12)


@pytest.fixture
def published(head, tmp_path):
    path = tmp_path / "sac+logos+ava1-l14-linearMSE.pth"
    torch.save({f"layers.{name}": value for name, value in head.state_dict().items()}, path)
    return path


def eight_bit(*shape):
    return torch.randint(64, 192, shape, generator=torch.Generator().manual_seed(0)).float() / 255


@torch.no_grad()
def by_transformers(folder, head, images):
    files = [Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()) for image in images]
    pixels = CLIPImageProcessor.from_pretrained(folder)(files, return_tensors="pt").pixel_values
    features = CLIPModel.from_pretrained(folder).get_image_features(pixels).pooler_output
    return head(features / features.norm(dim=-1, keepdim=True))[:, 0]


@pytest.mark.parametrize("shape", [(32, 32), (40, 56)])
def test_is_the_published_rating(transformers_clip, published, head, make_samples, shape):
    images = eight_bit(4, 3, *shape)
    score = Aesthetic(str(transformers_clip), str(published), batch_size=3).score(make_samples(images, PROMPTS, 2))
    expected = by_transformers(transformers_clip, head, images)
    assert expected.std() > 1e-4
    torch.testing.assert_close(score, expected, atol=1e-6 if shape == (32, 32) else 2e-4, rtol=0)


def test_batch_equals_one_by_one_and_the_prompt_does_not_count(transformers_clip, published, make_samples):
    images = eight_bit(6, 3, 40, 32)
    rewards = [Aesthetic(str(transformers_clip), str(published), batch_size=size) for size in (64, 1)]
    scores = [
        reward.score(make_samples(images, prompts, 3))
        for reward, prompts in zip(rewards, (PROMPTS, ["", "x"]), strict=True)
    ]
    torch.testing.assert_close(scores[0], scores[1], atol=1e-5, rtol=0)


def test_frozen_and_a_broken_image_is_nan(transformers_clip, published, make_samples):
    images = eight_bit(2, 3, 32, 32)
    images[0, 0, 0, 0] = torch.nan
    reward = Aesthetic(str(transformers_clip), str(published))
    assert reward(make_samples(images, ["a cat"], 2)).valid.tolist() == [[False, True]]
    assert reward.to("cpu") is reward
    for network in (reward.network.clip, reward.network.head):
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_the_trainers_autocast_does_not_change_the_answer(transformers_clip, published, make_samples):
    samples = make_samples(eight_bit(2, 3, 32, 32), PROMPTS, 1)
    exact = Aesthetic(str(transformers_clip), str(published)).score(samples)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(Aesthetic(str(transformers_clip), str(published)).score(samples), exact)


def test_the_head_of_another_clip_or_another_network_is_refused(transformers_clip, tmp_path):
    state = {f"layers.{name}": value for name, value in published_head(768).state_dict().items()}
    torch.save(state, tmp_path / "large.pth")
    with pytest.raises(ValueError, match=r"of another shape: layers.0.weight \(1024, 768\) \(expected \(1024, 12\)\)"):
        Aesthetic(str(transformers_clip), str(tmp_path / "large.pth")).to("cpu")
    torch.save(nn.Linear(12, 1).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(ValueError, match=r"does not fit AestheticHead; missing: layers\.0\.weight"):
        Aesthetic(str(transformers_clip), str(tmp_path / "linear.pth")).to("cpu")


def test_mistakes(published):
    with pytest.raises(ValueError, match="head must be a file"):
        Aesthetic("somewhere", "no.pth")
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Aesthetic("somewhere", str(published), batch_size=0)
    with pytest.raises(ValueError, match="transformers cannot read 'no/model' as CLIPModel"):
        Aesthetic("no/model", str(published)).to("cpu")
