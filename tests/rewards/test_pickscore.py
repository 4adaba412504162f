import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

from realgen.detectors.transformers_model import load_pretrained
from realgen.rewards import PickScore

PROMPTS = ["a photo of the moon", "a cat"]


def eight_bit(*shape):
    return torch.randint(64, 192, shape, generator=torch.Generator().manual_seed(0)).float() / 255


@torch.no_grad()
def by_transformers(folder, images, prompts):
    """The model card's example: processors on files, padding to the longest, exp(logit_scale) * cosine."""
    model = CLIPModel.from_pretrained(folder).eval()
    files = [Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()) for image in images]
    pixels = CLIPImageProcessor.from_pretrained(folder)(files, return_tensors="pt")
    tokens = AutoTokenizer.from_pretrained(folder)(
        prompts, padding=True, truncation=True, max_length=10, return_tensors="pt"
    )
    output = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, **pixels)
    return output.logits_per_image.diagonal()


@pytest.mark.parametrize("shape", [(32, 32), (40, 56), (45, 32)])
def test_is_the_published_score(transformers_clip, make_samples, shape):
    images = eight_bit(4, 3, *shape)
    samples = make_samples(images, PROMPTS, group_size=2)
    score = PickScore(str(transformers_clip), batch_size=3).score(samples)
    expected = by_transformers(transformers_clip, images, samples.row_prompts)
    assert score.std() > 0.05
    # A file that is resized is rounded to 8 bits on the way.
    torch.testing.assert_close(score, expected, atol=1e-4 if shape == (32, 32) else 0.1, rtol=0)


def test_the_scale_is_the_models(transformers_clip, make_samples):
    samples = make_samples(eight_bit(2, 3, 32, 32), PROMPTS, group_size=1)
    reward = PickScore(str(transformers_clip))
    before = reward.score(samples)
    with torch.no_grad():
        reward.network.model.logit_scale.add_(torch.tensor(3.0).log())
    torch.testing.assert_close(reward.score(samples), 3 * before)


def test_batch_equals_one_by_one(transformers_clip, make_samples):
    samples = make_samples(eight_bit(6, 3, 40, 32), PROMPTS, group_size=3)
    whole, single = (PickScore(str(transformers_clip), batch_size=size).score(samples) for size in (64, 1))
    torch.testing.assert_close(whole, single, atol=1e-5, rtol=0)


def test_a_broken_image_is_nan_and_nothing_is_trained(transformers_clip, make_samples):
    images = eight_bit(3, 3, 32, 32)
    images[1, 2, 3] = torch.nan
    reward = PickScore(str(transformers_clip))
    output = reward(make_samples(images, ["a cat"], group_size=3))
    assert output.valid.tolist() == [[True, False, True]]
    assert list(output.components) == ["pickscore"]
    assert not any(p.requires_grad for p in reward.network.model.parameters())
    assert reward.to("cpu") is reward


def test_model_and_processor_may_lie_apart(transformers_clip, make_samples, tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(transformers_clip / name, tmp_path / name)
    samples = make_samples(eight_bit(2, 3, 32, 32), PROMPTS, group_size=1)
    apart = PickScore(str(tmp_path), processor=str(transformers_clip))
    assert torch.equal(apart.score(samples), PickScore(str(transformers_clip)).score(samples))
    with pytest.raises(ValueError, match=r"processor: .* lacks tokenizer\.json"):
        PickScore(str(tmp_path)).to("cpu")


def test_weights_that_transformers_would_draw_at_random_are_refused(transformers_clip, tmp_path):
    folder = shutil.copytree(transformers_clip, tmp_path / "clip")
    state = load_file(folder / "model.safetensors")
    state["logit_scales"] = state.pop("logit_scale")
    state["visual_projection.weight"] = torch.zeros(7, 16)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="does not fit CLIPModel; missing: logit_scale") as error:
        PickScore(str(folder)).to("cpu")
    assert "unknown: logit_scales" in str(error.value)
    assert "of another shape: visual_projection.weight" in str(error.value)


def test_another_kind_of_model_or_processor_is_refused(transformers_clip, tmp_path):
    folder = shutil.copytree(transformers_clip, tmp_path / "clip")
    config = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**config, "do_center_crop": False}))
    with pytest.raises(ValueError, match="must resize the shorter side bicubically or bilinearly, cut out"):
        PickScore(str(folder)).to("cpu")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "qwen2_vl"}))
    with pytest.raises(ValueError, match=r"as CLIPModel: its config\.json has model_type 'qwen2_vl'"):
        PickScore(str(folder)).to("cpu")
    with pytest.raises(ValueError, match=r"cannot read 'nobody/nothing' as CLIPModel: .*`hf download nobody/nothing`"):
        PickScore("nobody/nothing").to("cpu")
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        PickScore("nobody/nothing", batch_size=0)


@pytest.mark.attack("weights", "a model's config.json that asks for more than all memory")
def test_a_config_is_held_against_the_weights_before_anything_is_allocated(transformers_clip, tmp_path):
    folder = shutil.copytree(transformers_clip, tmp_path / "clip")
    settings = json.loads((folder / "config.json").read_text())
    settings["vision_config"]["intermediate_size"] = 10**12
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"its config\.json asks for [\d,]+ parameters, and its weights are"):
        load_pretrained(CLIPModel, str(folder))
