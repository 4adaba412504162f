import pytest

from realgen.detectors.configs import OmniAIDConfig, OmniAIDDinoConfig


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"rank": 0}, "rank must be between 1 and 1023, got 0"),
        ({"rank": 1024}, "rank must be between 1 and 1023, got 1024"),
        ({"top_k": 6}, "top_k must be between 1 and the 5 routed experts"),
        ({"top_k": 0}, "top_k must be between 1"),
        ({"num_experts": 1}, "top_k must be between 1 and the 0 routed experts"),
        ({"router_input": "pixels"}, "router_input must be one of patch_embeddings, frozen_tower, got 'pixels'"),
        ({"expert_type": "moe"}, "expert_type must be one of svd, lora, got 'moe'"),
        ({"preprocess": "v3"}, "preprocess must be one of v1, v2, got 'v3'"),
    ],
)
@pytest.mark.parametrize("kind", [OmniAIDConfig, OmniAIDDinoConfig])
def test_impossible_configs(kind, numbers, message):
    with pytest.raises(ValueError, match=message):
        kind(**numbers)


def test_a_router_needs_no_always_on_expert():
    assert OmniAIDConfig(num_experts=1, top_k=1, hybrid=False).num_routed == 1
    assert OmniAIDConfig().num_routed == 5


def test_impossible_towers_are_refused():
    with pytest.raises(ValueError, match="image_size must be a multiple of patch_size, got 100 and 14"):
        OmniAIDConfig(image_size=100)
    with pytest.raises(ValueError, match="a head must have a multiple of 4 channels"):
        OmniAIDDinoConfig(hidden_size=24, num_attention_heads=4)
