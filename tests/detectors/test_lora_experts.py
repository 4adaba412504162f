import copy
import math

import pytest
import torch
from torch.nn import functional as F

from realgen.detectors import OmniAIDNetwork, RoutedExperts
from realgen.detectors.lora_experts import LoRAExpertLinear
from realgen.detectors.svd_experts import orthogonality_loss
from realgen.detectors.vision_towers import PROJECTIONS
from realgen.functional.network_input import tower_pixels


@torch.no_grad()
def test_by_hand():
    linear = LoRAExpertLinear(2, 2, 1)
    linear.copy_from(torch.eye(2), torch.tensor([1.0, 0.0]))
    for expert, (a, b) in enumerate([([1.0, 0.0], [0.0, 2.0]), ([1.0, 1.0], [1.0, 0.0])]):
        linear.lora_A_experts[expert].copy_(torch.tensor([a]))
        linear.lora_B_experts[expert].copy_(torch.tensor([b]).T)
    hidden = torch.tensor([[[3.0, 5.0]]])
    # x + bias = (4, 5); expert 0 adds g * 3 * (0, 2), expert 1 adds g * 8 * (1, 0)
    assert linear(hidden, torch.tensor([[0.5, 0.25]])).tolist() == [[[6.0, 8.0]]]


def test_adapters_start_at_nothing_with_the_published_spread():
    linear = LoRAExpertLinear(400, 3, 2)
    linear.copy_from(torch.randn(400, 400), torch.randn(400))
    assert not any(b.any() for b in linear.lora_B_experts)
    bound = 1 / math.sqrt(400)  # Kaiming's uniform bound for a = sqrt(5): sqrt(6 / ((1 + 5) * fan_in))
    for a in linear.lora_A_experts:
        assert a.abs().max() <= bound
        assert a.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    assert not torch.equal(linear.lora_A_experts[0], linear.lora_A_experts[1])


@torch.no_grad()
@pytest.mark.parametrize("hybrid", [True, False])
def test_starts_as_clip(clip_tower, images, hybrid):
    network = OmniAIDNetwork.from_clip_vision(
        clip_tower, RoutedExperts(num_experts=3, rank=2, hybrid=hybrid, expert_type="lora")
    )
    expected = clip_tower(pixel_values=tower_pixels(images, 32)).pooler_output
    torch.testing.assert_close(network.features(images), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_each_image_sees_clip_with_the_adapters_that_its_router_chose(clip_tower, omniaid_lora_network, images):
    """The truth is transformers' tower with W + sum_e g_e B_e A_e written into its attention."""
    network, pixels = omniaid_lora_network, tower_pixels(images, 32)
    for index, logits in enumerate(network.router_logits(images)):
        gates = [*F.one_hot(logits.argmax(), 2).tolist(), 1]  # top 1 of 2, and the always-on adapter
        tower = copy.deepcopy(clip_tower)
        state = {name.removeprefix("feature_extractor."): value for name, value in network.state_dict().items()}
        own = {
            name.replace("encoder_layers", "encoder.layers")
            .replace("ln_pre", "pre_layrnorm")
            .replace("ln_post", "post_layernorm"): value
            for name, value in network.state_dict().items()
            if not name.startswith("feature_extractor.")
        }
        tower.load_state_dict(state | own, strict=False)
        for layer, source in zip(tower.encoder.layers, network.encoder_layers, strict=True):
            for name in PROJECTIONS:
                adapters, plain = getattr(source.self_attn, name), getattr(layer.self_attn, name)
                weight = adapters.weight_fixed.clone()
                for gate, a, b in zip(gates, adapters.lora_A_experts, adapters.lora_B_experts, strict=True):
                    weight += gate * b @ a
                plain.weight.copy_(weight)
                plain.bias.copy_(adapters.bias)
        expected = tower(pixel_values=pixels[index : index + 1]).pooler_output
        torch.testing.assert_close(network.features(images)[index], expected[0], atol=2e-5, rtol=1e-4)


def test_names_are_the_published_ones(omniaid_lora_network):
    prefix = "encoder_layers.1.self_attn.out_proj."
    names = {name.removeprefix(prefix) for name in omniaid_lora_network.state_dict() if name.startswith(prefix)}
    adapters = {f"lora_{part}_experts.{e}" for part in "AB" for e in range(3)}
    assert names == {"weight_fixed", "bias"} | adapters


def test_published_recipe_trains_adapters_and_head(omniaid_lora_network):
    omniaid_lora_network.set_trainable("experts")
    names = omniaid_lora_network.trainable_parameters()
    assert all("lora_" in name or name.startswith("head.") for name in names)
    assert sum("lora_" in name for name in names) == 2 * 4 * 3 * 2  # layers, maps, experts, A and B


def test_orthogonality_is_between_adapters_alone():
    linear = LoRAExpertLinear(4, 2, 1)
    with torch.no_grad():
        for a, b, axis in zip(linear.lora_A_experts, linear.lora_B_experts, (0, 1), strict=True):
            a.copy_(F.one_hot(torch.tensor([axis]), 4))
            b.copy_(torch.ones(4, 1))
    assert linear.main_bases() == ()
    loss = orthogonality_loss([linear], [linear.main_bases()])
    torch.testing.assert_close(loss, torch.tensor(1.0))  # the same column written, orthogonal rows read
    loss.backward()
    assert linear.lora_B_experts[0].grad.isfinite().all()
