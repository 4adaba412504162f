import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from realgen.rewards import HPSv2

PROMPTS = ["a photo of the moon", "a cat with grain"]


@pytest.fixture
def published(plain_clip, tmp_path):
    """The published layout: the state dict under ``state_dict``."""
    path = tmp_path / "HPS_v2_compressed.pt"
    torch.save({"state_dict": plain_clip.state_dict()}, path)
    return path


@torch.no_grad()
def by_open_clip(model, images, prompts):
    """What hpsv2 does with files: tensors first, then resize, crop and OpenAI's mean and deviation."""
    transform = Compose(
        [
            ToTensor(),
            Resize(32, InterpolationMode.BICUBIC),
            CenterCrop(32),
            Normalize(open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD),
        ]
    )
    files = [Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()) for image in images]
    pixels = torch.stack([transform(file) for file in files])
    image_features, text_features, _ = model(pixels, open_clip.tokenize(prompts))
    return (image_features @ text_features.T).diagonal()


@pytest.mark.parametrize("shape", [(32, 32), (48, 70)])
def test_is_the_published_score(published, architecture, plain_clip, make_samples, shape):
    images = torch.randint(64, 192, (4, 3, *shape)).float() / 255
    samples = make_samples(images, PROMPTS, group_size=2)
    score = HPSv2(str(published), architecture).score(samples)
    expected = by_open_clip(plain_clip, images, samples.row_prompts)
    assert score.std() > 1e-3
    torch.testing.assert_close(score, expected, atol=1e-5, rtol=0)


def test_batch_equals_one_by_one(published, architecture, make_samples):
    samples = make_samples(torch.rand(6, 3, 40, 32), PROMPTS, group_size=3)
    whole, single = (HPSv2(str(published), architecture, batch_size=size).score(samples) for size in (64, 1))
    torch.testing.assert_close(whole, single, atol=1e-5, rtol=0)


def test_half_precision_and_safetensors_files(published, architecture, plain_clip, make_samples, tmp_path):
    samples = make_samples(torch.rand(2, 3, 32, 32), PROMPTS, group_size=1)
    expected = HPSv2(str(published), architecture).score(samples)
    halves = {name: value.half() for name, value in plain_clip.state_dict().items()}
    torch.save({"state_dict": halves}, tmp_path / "half.pt")
    half = HPSv2(str(tmp_path / "half.pt"), architecture)
    torch.testing.assert_close(half.score(samples), expected, atol=5e-3, rtol=0)
    assert half.network.model.logit_scale.dtype == torch.float32
    save_file(plain_clip.state_dict(), tmp_path / "weights.safetensors")
    assert torch.equal(HPSv2(str(tmp_path / "weights.safetensors"), architecture).score(samples), expected)


def test_another_layout_is_refused_by_name(architecture, plain_clip, tmp_path):
    state = dict(plain_clip.state_dict())
    state["score_predictor.weight"] = state.pop("text_projection")
    # open_clip's own loader would resize this table to fit, silently.
    state["visual.positional_embedding"] = torch.zeros(50, 32)
    torch.save({"state_dict": state}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="does not fit CLIP; missing: text_projection") as error:
        HPSv2(str(tmp_path / "other.pt"), architecture).to("cpu")
    assert "unknown: score_predictor.weight" in str(error.value)
    assert "of another shape: visual.positional_embedding (50, 32) (expected (17, 32))" in str(error.value)


def test_mistakes(published, tmp_path):
    with pytest.raises(ValueError, match="checkpoint must be a file, or hf-hub:OWNER/REPOSITORY/FILE; got 'no/file'"):
        HPSv2("no/file")
    with pytest.raises(ValueError, match="architecture must be one of open_clip's, got 'ViT-H-15'; nearest: ViT-H-1"):
        HPSv2(str(published), "ViT-H-15").to("cpu")
    with pytest.raises(ValueError, match="must be a plain CLIP, got 'coca_ViT-B-32' with custom_text, multimodal_cfg"):
        HPSv2(str(published), "coca_ViT-B-32").to("cpu")
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        HPSv2(str(published), batch_size=0)
