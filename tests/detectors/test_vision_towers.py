import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from realgen.detectors.configs import DinoConfig, VisionConfig
from realgen.detectors.vision_towers import build_dino, clip_config, dino_config, merge_quick_gelu


@torch.no_grad()
def test_merged_tower_is_the_same_with_plain_silu(clip_tower):
    tower, pixels = clip_tower.double(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = tower(pixel_values=pixels).pooler_output
    merge_quick_gelu(tower)
    torch.testing.assert_close(tower(pixel_values=pixels).pooler_output, expected, atol=1e-12, rtol=1e-12)


@torch.no_grad()
def test_merged_tower_makes_no_copy_of_the_hidden_layer(clip_tower):
    merge_quick_gelu(clip_tower)
    for layer in clip_tower.encoder.layers:
        x = torch.tensor([-1.0, 0.0, 2.0])
        expected = x * torch.sigmoid(x)
        assert layer.mlp.activation_fn(x) is x
        torch.testing.assert_close(x, expected)


def test_measures_are_read_from_the_tower(clip_tower):
    assert clip_config(clip_tower) == VisionConfig(24, 48, 2, 3, 8, 32, 1e-5)


def test_another_activation_is_refused():
    tower = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, hidden_act="gelu"
        )
    )
    with pytest.raises(ValueError, match="hidden_act must be 'quick_gelu', got 'gelu'"):
        clip_config(tower)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"hidden_size": 10, "num_attention_heads": 4}, "hidden_size must be a multiple of num_attention_heads"),
        ({"image_size": 30, "patch_size": 8}, "image_size must be a multiple of patch_size"),
    ],
)
def test_impossible_measures(numbers, message):
    with pytest.raises(ValueError, match=message):
        VisionConfig(**numbers)


def test_measures_are_read_from_dinov3_and_build_it_again(dino_tower):
    tower = dino_config(dino_tower)
    assert (tower.hidden_size, tower.patch_size, tower.num_register_tokens) == (24, 8, 2)
    again = build_dino(tower).eval()
    again.load_state_dict(dino_tower.state_dict())
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = dino_tower(pixel_values=pixels).pooler_output
        torch.testing.assert_close(again(pixel_values=pixels).pooler_output, expected)


def test_the_defaults_are_those_of_the_published_tower():
    tower = DinoConfig()
    assert (tower.hidden_size, tower.num_hidden_layers, tower.patch_size) == (1024, 24, 16)
    assert (tower.query_bias, tower.key_bias, tower.value_bias, tower.proj_bias) == (True, False, True, True)


def test_heads_must_have_room_for_two_axes():
    with pytest.raises(ValueError, match="a head must have a multiple of 4 channels, for two axes in pairs, got 6"):
        DinoConfig(hidden_size=24, num_attention_heads=4)
