import json
import shutil
from pathlib import Path

import open_clip
import pytest
import timm
import timm.data
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from realgen.detectors.linear_probe import load_backbone, wave_picture
from realgen.functional.published_input import timm_input

PARTS = sorted(Path(__file__).parents[2].glob("configs/detectors/*probe*.yaml"))


def as_files(images):
    return [Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()) for image in images]


def smooth(count, height, width):
    """Images that resizing neither rounds much nor carries out of range."""
    ramp = torch.linspace(0.2, 0.8, width).expand(3, height, width) + torch.linspace(0, 0.1, height)[:, None]
    return torch.stack([(ramp * (0.5 + 0.1 * i)).mul(255).round() / 255 for i in range(count)])


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """timm's smallest ViT with random weights, saved with its classifier, as published files are."""
    torch.manual_seed(0)
    network = timm.create_model("test_vit").eval()
    path = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    save_file(network.state_dict(), path)
    return network, path


@torch.no_grad()
def by_timm(network, images):
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    pixels = torch.stack([transform(file) for file in as_files(images)])
    return network.forward_head(network.forward_features(pixels), pre_logits=True)


@pytest.mark.parametrize("shape", [(160, 160), (200, 260)])
def test_features_are_timms_on_files(vit, shape):
    network, path = vit
    backbone = load_backbone("test_vit", str(path))
    images = smooth(3, *shape)
    with torch.no_grad():
        features = backbone(images)
    expected = by_timm(network, images)
    assert expected.std() > 0.1
    torch.testing.assert_close(features, expected, atol=2e-2, rtol=0)  # files are rounded once resized
    assert not backbone.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@torch.no_grad()
def test_a_mergeer_as_the_hub_has_them(vit, tmp_path):
    _, path = vit
    shutil.copy(path, tmp_path / "model.safetensors")
    entry = {
        "input_size": [3, 160, 160],
        "fixed_input_size": True,
        "mean": [0.4] * 3,
        "std": [0.3] * 3,
        "crop_pct": 0.9,
    }
    config = {"architecture": "test_vit", "num_classes": 1000, "pretrained_cfg": {**entry, "classifier": "head"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    backbone = load_backbone(f"local-dir:{tmp_path}")
    assert backbone.wanted.mean == (0.4, 0.4, 0.4)
    named = load_backbone("test_vit", str(path))
    pixels = torch.rand(2, 3, 160, 160)
    torch.testing.assert_close(backbone.tower(pixels), named.tower(pixels))


def test_convolutional_networks_too(tmp_path):
    network = timm.create_model("test_resnet").eval()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "resnet.pth")
    backbone = load_backbone("test_resnet", str(tmp_path / "resnet.pth"))
    images = smooth(2, *backbone.wanted.size)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), by_timm(network, images), atol=2e-2, rtol=0)


@pytest.fixture(scope="module")
def clip_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("open_clip")
    tower = {"layers": 1, "width": 32}
    config = {
        "embed_dim": 16,
        "vision_cfg": {**tower, "image_size": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {**tower, "context_length": 8, "vocab_size": 16, "heads": 2},
    }
    preprocess = {"size": 32, "mean": [0.4] * 3, "std": [0.3] * 3, "interpolation": "bilinear", "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    return folder


@torch.no_grad()
def test_open_clips_image_tower(clip_dir):
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{clip_dir}")
    images = smooth(3, 40, 56)
    expected = model.eval().encode_image(torch.stack([transform(file) for file in as_files(images)]))
    features = load_backbone(f"open_clip:local-dir:{clip_dir}")(images)
    torch.testing.assert_close(features, expected, atol=2e-2, rtol=0)


def test_what_cannot_be_loaded_is_named(vit, clip_dir, tmp_path):
    with pytest.raises(ValueError, match=r"timm cannot load backbone 'vit_smal' .*nearest of its names: \w*vit_small"):
        load_backbone("vit_smal")
    with pytest.raises(ValueError, match="timm cannot load backbone 'test_vit2'"):
        load_backbone("test_vit2")  # no network here
    with pytest.raises(ValueError, match="open_clip cannot load backbone 'ViT-Z' with pretrained='openai'"):
        load_backbone("open_clip:ViT-Z", "openai")
    with pytest.raises(ValueError, match=r"open_clip:ViT-B-32 needs pretrained: a file, or a tag .*openai"):
        load_backbone("open_clip:ViT-B-32")
    with pytest.raises(ValueError, match="pretrained must be a file with a timm backbone's weights, 'none' is none"):
        load_backbone("test_vit", "none")
    state = {name: value for name, value in vit[0].state_dict().items() if name != "norm.weight"}
    save_file({**state, "extra.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"missing: norm\.weight; unknown: extra\.weight"):
        load_backbone("test_vit", str(tmp_path / "other.safetensors"))


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000])
def test_broken_files_are_one_clear_line(clip_dir, tmp_path, content):
    folder = shutil.copytree(clip_dir, tmp_path / "open_clip")
    (folder / "open_clip_model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=f"open_clip cannot load backbone 'local-dir:{folder}'") as error:
        load_backbone(f"open_clip:local-dir:{folder}")
    assert "\n" not in str(error.value)
    (tmp_path / "model.safetensors").write_bytes(content)
    (tmp_path / "config.json").write_text('{"architecture": "test_vit", "pretrained_cfg": {}}')
    with pytest.raises(ValueError, match=f"timm cannot load backbone 'local-dir:{tmp_path}'") as error:
        load_backbone(f"local-dir:{tmp_path}")
    assert "\n" not in str(error.value)


def test_the_fixed_picture_is_one(vit):
    picture = wave_picture()
    assert picture.shape == (1, 3, 64, 64)
    assert 0 <= picture.min() < 0.05
    assert 0.95 < picture.max() <= 1
    assert torch.equal(picture, wave_picture())


def test_the_recipes_name_backbones_that_timm_has_weights_of():
    names = {path.stem: yaml.safe_load(path.read_text())["init_args"]["backbone"] for path in PARTS}
    assert len(set(names.values())) == len(names) >= 5
    assert {path.stem for path in PARTS} >= {f"probe_{name}" for name in ("perception_encoder", "dinov3", "metaclip2")}
    for path in PARTS:
        assert names[path.stem] in path.read_text().split("class_path")[0] or path.stem == "linear_probe"
        config = timm.get_pretrained_cfg(names[path.stem])
        assert config is not None, names[path.stem]
        assert config.has_weights
        assert min(timm_input(timm.data.resolve_data_config(pretrained_cfg=config.to_dict())).size) >= 224


def test_a_perception_encoder_gives_one_row_of_features_per_image(tmp_path):
    """Its attention pooling is the head that other networks do not have; the smallest one, with random weights."""
    torch.manual_seed(0)
    network = timm.create_model("vit_pe_core_tiny_patch16_384", num_classes=0).eval()
    save_file(network.state_dict(), tmp_path / "pe.safetensors")
    backbone = load_backbone("vit_pe_core_tiny_patch16_384", str(tmp_path / "pe.safetensors"))
    images = smooth(2, 384, 384)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), network(2 * images - 1), atol=1e-4, rtol=0)
    assert backbone(images).shape == (2, 192)
