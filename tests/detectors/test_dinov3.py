import pytest
import torch
from transformers.models.dinov3_vit.modeling_dinov3_vit import apply_rotary_pos_emb

from realgen.detectors.configs import DinoConfig
from realgen.detectors.dinov3 import Rotation, build_dino, dino_config, rotate


def test_rotation_is_that_of_transformers(dino_tower):
    rotation = Rotation(*dino_tower.rope_embeddings(torch.zeros(1, 3, 32, 32)))
    query, key = torch.randn(2, 2, 3, 19, 8).unbind(0)  # a class token, 2 registers, 16 patches
    expected = apply_rotary_pos_emb(query, key, *rotation)
    torch.testing.assert_close(rotate(query, rotation), expected[0])
    torch.testing.assert_close(rotate(key, rotation), expected[1])


def test_measures_are_read_from_the_tower_and_build_it_again(dino_tower):
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
    assert tower.biases == (True, False, True, True)


def test_heads_must_have_room_for_two_axes():
    with pytest.raises(ValueError, match="a head must have a multiple of 4 channels, for two axes in pairs, got 6"):
        DinoConfig(hidden_size=24, num_attention_heads=4)
