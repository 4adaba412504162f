import pytest
import torch

from realgen.detectors.configs import DinoConfig
from realgen.detectors.dinov3 import build_dino, dino_config


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
    assert (tower.query_bias, tower.key_bias, tower.value_bias, tower.proj_bias) == (True, False, True, True)


def test_heads_must_have_room_for_two_axes():
    with pytest.raises(ValueError, match="a head must have a multiple of 4 channels, for two axes in pairs, got 6"):
        DinoConfig(hidden_size=24, num_attention_heads=4)
