import json
import shutil

import open_clip
import pytest
import torch
from PIL import Image

from realgen.functional.images import from_uint8
from realgen.functional.network_input import to_network_input
from realgen.functional.published_input import open_clip_input
from realgen.rewards import Alignment, clip_similarity

PROMPTS = ["a photo of the moon", "a cat with grain"]


def eight_bit(*shape):
    """Noise that survives the way through a file, and of too little contrast for bicubic overshoot to leave [0, 1].

    Pillow cuts overshoot after each of its two passes, tensors are cut once.
    """
    return from_uint8(torch.randint(64, 192, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8))


def as_files(images):
    return [Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()) for image in images]


@torch.no_grad()
def by_open_clip(folder, images, prompts):
    """Cosine similarities by open_clip's own transform, tokenizer and encoders."""
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    pixels = torch.stack([transform(file) for file in as_files(images)])
    image_features = model.eval().encode_image(pixels)
    text_features = model.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(prompts))
    return torch.nn.functional.cosine_similarity(image_features, text_features)


@pytest.mark.parametrize("shape", [(32, 32), (40, 56), (90, 33)])
def test_equals_open_clip_on_files(clip_folder, make_samples, shape):
    images = eight_bit(4, 3, *shape)
    samples = make_samples(images, PROMPTS, group_size=2)
    score = Alignment(str(clip_folder), batch_size=3).score(samples)
    expected = by_open_clip(clip_folder, images, samples.row_prompts)
    assert score.std() > 0.01
    # A file that is resized is rounded to 8 bits on the way.
    torch.testing.assert_close(score, expected, atol=1e-5 if shape == (32, 32) else 5e-3, rtol=0)


def test_stays_in_range_and_batch_size_does_not_matter(clip_folder, make_samples):
    samples = make_samples(eight_bit(6, 3, 32, 32), PROMPTS, group_size=3)
    whole, single = (Alignment(str(clip_folder), batch_size=size).score(samples) for size in (64, 1))
    torch.testing.assert_close(whole, single, atol=1e-5, rtol=0)
    assert whole.abs().max() <= 1 + 1e-6


def test_length_of_the_features_does_not_count(clip_folder, make_samples):
    samples = make_samples(eight_bit(2, 3, 32, 32), PROMPTS, group_size=1)
    reward = Alignment(str(clip_folder))
    before = reward.score(samples)
    with torch.no_grad():
        reward.network.model.visual.proj.mul_(7)
    torch.testing.assert_close(reward.score(samples), before)


def test_the_trainers_autocast_does_not_change_the_answer(clip_folder, make_samples):
    samples = make_samples(eight_bit(2, 3, 32, 32), PROMPTS, group_size=1)
    exact = Alignment(str(clip_folder)).score(samples)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(Alignment(str(clip_folder)).score(samples), exact)


def test_text_is_encoded_once_per_prompt(clip_folder, make_samples, monkeypatch):
    reward = Alignment(str(clip_folder))
    seen = []
    model = reward.network.model
    encode = model.encode_text
    monkeypatch.setattr(model, "encode_text", lambda tokens: seen.append(len(tokens)) or encode(tokens))
    images = eight_bit(3, 3, 32, 32)
    first = reward.score(make_samples(images, ["a cat", "the moon", "a cat"], group_size=1))
    again = reward.score(make_samples(images[1:], ["the moon", "a photo"], group_size=1))
    assert seen == [2, 1]
    assert again[0] == first[1]


def test_old_prompts_make_room(clip_folder, make_samples, monkeypatch):
    monkeypatch.setattr(clip_similarity, "TEXT_CACHE_SIZE", 2)
    reward = Alignment(str(clip_folder))
    images = eight_bit(3, 3, 32, 32)
    prompts = ["a cat", "the moon", "a photo"]
    assert reward.score(make_samples(images, prompts, group_size=1)).shape == (3,)
    assert list(reward._text_cache) == prompts[1:]


def test_frozen_and_a_broken_image_is_nan(clip_folder, make_samples):
    reward = Alignment(str(clip_folder))
    images = eight_bit(2, 3, 32, 32)
    images[0, 0, 0, 0] = torch.nan
    output = reward(make_samples(images, ["a cat"], group_size=2))
    assert output.valid.tolist() == [[False, True]]
    assert list(output.components) == ["alignment"]
    assert not any(p.requires_grad for p in reward.network.model.parameters())
    assert not reward.network.model.training


def test_moves_with_its_cached_prompts(clip_folder, make_samples):
    reward = Alignment(str(clip_folder))
    samples = make_samples(eight_bit(2, 3, 32, 32), PROMPTS, group_size=1)
    before = reward.score(samples)
    assert reward.to("cpu") is reward
    assert torch.equal(reward.score(samples), before)


def test_a_named_architecture_with_a_file_of_weights(clip_folder, make_samples, tmp_path):
    name = "realgen-test-clip"
    model_cfg = json.loads((clip_folder / "open_clip_config.json").read_text())["model_cfg"]
    model_cfg["text_cfg"]["hf_tokenizer_name"] = str(clip_folder)
    (tmp_path / f"{name}.json").write_text(json.dumps(model_cfg))
    open_clip.add_model_config(tmp_path)
    samples = make_samples(eight_bit(2, 3, 32, 32), PROMPTS, group_size=1)
    named = Alignment(name, pretrained=str(clip_folder / "open_clip_model.safetensors"))
    # The same weights; a bare architecture has open_clip's default mean and standard deviation, not the folder's.
    assert named.network.wanted.mean == open_clip.OPENAI_DATASET_MEAN
    named.network.wanted = Alignment(str(clip_folder)).network.wanted
    torch.testing.assert_close(named.score(samples), Alignment(str(clip_folder)).score(samples))


def test_mistakes(clip_folder, tmp_path):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Alignment(str(clip_folder), batch_size=0)
    with pytest.raises(ValueError, match=r"model must be a folder with open_clip_config.json, .* 'no/place'"):
        Alignment("no/place")
    with pytest.raises(ValueError, match="open_clip cannot load model 'ViT-Z'"):
        Alignment("ViT-Z", pretrained="weights.pt").to("cpu")
    shutil.copytree(clip_folder, tmp_path / "clip")
    (tmp_path / "clip" / "open_clip_model.safetensors").unlink()
    with pytest.raises(ValueError, match="open_clip cannot load model"):
        Alignment(str(tmp_path / "clip")).to("cpu")


@pytest.mark.parametrize("resize_mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", [(40, 56), (90, 33), (20, 20)])
def test_pixels_are_those_of_open_clips_transform(resize_mode, interpolation, shape):
    settings = {"size": 32, "mean": (0.5, 0.4, 0.3), "std": (0.3, 0.3, 0.3)}
    settings |= {"interpolation": interpolation, "resize_mode": resize_mode}
    transform = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**settings), is_train=False)
    images = eight_bit(3, 3, *shape)
    expected = torch.stack([transform(file) for file in as_files(images)])
    torch.testing.assert_close(
        to_network_input(images, open_clip_input(settings)), expected, atol=1.5 / 255 / 0.3, rtol=0
    )


def test_a_size_that_is_not_square():
    settings = {"size": (16, 32), "mean": (0.0,) * 3, "std": (1.0,) * 3, "interpolation": "bilinear"}
    images = torch.zeros(1, 3, 64, 64)
    images[:, :, 16:48] = 1.0  # resized to 32 x 32, the middle 16 rows are cut out
    pixels = to_network_input(images, open_clip_input({**settings, "resize_mode": "shortest"}))
    assert pixels.shape == (1, 3, 16, 32)
    assert pixels[:, :, 1:-1].min() == 1.0


def test_padding_is_refused():
    settings = {"size": 32, "interpolation": "bicubic", "resize_mode": "longest"}
    with pytest.raises(ValueError, match="resize_mode must be 'shortest' or 'squash', got 'longest'"):
        open_clip_input(settings)
