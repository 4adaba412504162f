"""Every published layout, written from networks whose answers are known, is read again; any other file is refused."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from realgen.detectors import Effort, OmniAID, OmniAIDNetwork
from realgen.detectors.checkpoint import locate, read_state_dict
from realgen.detectors.configs import OmniAIDConfig, RoutedExperts
from realgen.detectors.omniaid_dino import OmniAIDDino, OmniAIDDinoNetwork
from realgen.detectors.published import plain_name, recognise
from tests.helpers.published_layouts import published_file, published_state


@pytest.fixture
def public_network(clip_tower):
    network = OmniAIDNetwork.from_clip_vision(
        clip_tower, RoutedExperts(num_experts=4, rank=3, router_hidden=8, router_input="frozen_tower")
    )
    return network.eval()


@pytest.fixture
def genimage_network(clip_tower):
    """The shape of OmniAID's GenImage build: 3 experts of rank 4, one of two chosen."""
    network = OmniAIDNetwork.from_clip_vision(
        clip_tower, RoutedExperts(num_experts=3, rank=4, top_k=1, router_hidden=5, router_input="frozen_tower")
    )
    return network.eval()


@pytest.fixture
def omniaid_dino_lora_network(dino_tower):
    experts = RoutedExperts(num_experts=3, rank=2, router_hidden=8, router_input="frozen_tower", expert_type="lora")
    return OmniAIDDinoNetwork.from_dinov3(dino_tower, experts).eval()


LAYOUTS = {
    "omniaid_network": OmniAID,
    "public_network": OmniAID,
    "genimage_network": OmniAID,
    "omniaid_lora_network": OmniAID,
    "omniaid_dino_network": OmniAIDDino,
    "omniaid_dino_lora_network": OmniAIDDino,
    "effort_network": Effort,
}


@pytest.fixture(params=LAYOUTS, ids=lambda name: name.removesuffix("_network"))
def layout(request):
    """A network, and the class that reads its files."""
    return request.getfixturevalue(request.param), LAYOUTS[request.param]


@torch.no_grad()
@pytest.mark.parametrize(("wrapped", "with_bases"), [("model", True), ("module", False), ("both", False)])
def test_every_layout_is_read(layout, images, tmp_path, wrapped, with_bases):
    network, kind = layout
    expected = network(images).softmax(-1)[:, 1]
    torch.save(published_file(network, with_bases=with_bases, wrapped=wrapped), tmp_path / "file.pth")
    detector = kind(str(tmp_path / "file.pth"), config=network.config)
    torch.testing.assert_close(detector(images), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_safetensors_are_read_too(layout, images, tmp_path):
    network, kind = layout
    expected = network(images).softmax(-1)[:, 1]
    save_file(published_state(network), tmp_path / "file.safetensors")
    detector = kind(str(tmp_path / "file.safetensors"), config=network.config)
    torch.testing.assert_close(detector(images), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "kind"), [("omniaid", OmniAID), ("effort", Effort)])
def test_the_shipped_weights_survive_the_published_layout(nano, name, kind, tmp_path):
    weights, config = locate(str(nano / name))
    network = {"omniaid": OmniAID, "effort": Effort}[name](str(nano / name))
    torch.save({"model": read_state_dict(Path(weights))}, tmp_path / "file.pth")
    again = kind(str(tmp_path / "file.pth"), config=str(config))
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(images), network(images))


def refusal(detector):
    with pytest.raises(ValueError, match="does not fit") as error:
        detector(torch.zeros(1, 3, 8, 8))
    message = str(error.value)
    assert "\n" not in message
    return message


def test_the_other_build_is_named(omniaid_network, public_network, tmp_path):
    numbers = omniaid_network.config
    torch.save(published_file(public_network), tmp_path / "public.pth")
    message = refusal(OmniAID(str(tmp_path / "public.pth"), config=numbers))
    expected = "it looks like OmniAID on CLIP with router_input 'frozen_tower' (config: 'patch_embeddings');"
    assert expected in message
    assert "unknown: feature_extractor." in message
    torch.save(published_file(omniaid_network), tmp_path / "realgen.pth")
    message = refusal(OmniAID(str(tmp_path / "realgen.pth"), config=public_network.config))
    assert "with router_input 'patch_embeddings' (config: 'frozen_tower'); missing: feature_extractor." in message


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rank": 2}, "rank 3 (config: 2)"),
        ({"num_experts": 6}, "num_experts 4 (config: 6)"),
        ({"router_hidden": 9}, "router_hidden 8 (config: 9)"),
        ({"hybrid": False}, "hybrid True (config: False)"),
        ({"expert_type": "lora"}, "expert_type 'svd' (config: 'lora')"),
        ({"num_hidden_layers": 3}, "num_hidden_layers 2 (config: 3)"),
        ({"image_size": 40}, "image_size 32 (config: 40)"),
        ({"patch_size": 4}, "patch_size 8 (config: 4)"),
        ({"intermediate_size": 24}, "intermediate_size 48 (config: 24)"),
        ({"hidden_size": 48}, "hidden_size 24 (config: 48)"),
    ],
)
def test_wrong_numbers_are_named(omniaid_network, tmp_path, change, told):
    torch.save(published_file(omniaid_network), tmp_path / "file.pth")
    numbers = dataclasses.replace(omniaid_network.config, **change)
    assert told in refusal(OmniAID(str(tmp_path / "file.pth"), config=numbers))


def test_another_detector_is_named(effort_network, omniaid_network, omniaid_dino_network, tmp_path):
    files = {"Effort": effort_network, "OmniAID on CLIP": omniaid_network, "OmniAID on DINOv3": omniaid_dino_network}
    readers = {"Effort": Effort, "OmniAID on CLIP": OmniAID, "OmniAID on DINOv3": OmniAIDDino}
    for written, source in files.items():
        torch.save(published_file(source), tmp_path / "file.pth")
        for read, kind in readers.items():
            if read != written:
                numbers = files[read].config
                message = refusal(kind(str(tmp_path / "file.pth"), config=numbers))
                assert f"does not fit {read}; it looks like {written};" in message


def test_missing_and_extra_weights_are_named(omniaid_network, tmp_path):
    state = published_state(omniaid_network)
    del state["encoder_layers.1.self_attn.q_proj.S_experts.2"]
    state["head.scale"] = torch.ones(1)
    torch.save(state, tmp_path / "file.pth")
    message = refusal(OmniAID(str(tmp_path / "file.pth"), config=omniaid_network.config))
    assert message.endswith(
        "does not fit OmniAID on CLIP; missing: encoder_layers.1.self_attn.q_proj.S_experts.2; unknown: head.scale."
    )


def test_what_is_told_of_a_file_is_what_it_was_made_from(layout):
    network, _ = layout
    build = recognise({plain_name(name): value for name, value in published_state(network).items()})
    assert build.family == network.family
    assert not build.differences(network.config)
    assert {"hidden_size", "num_hidden_layers", "patch_size", "rank"} <= build.fields.keys()
    if build.family != "Effort":
        assert {"num_experts", "expert_type", "router_input", "router_hidden", "hybrid"} <= build.fields.keys()


def test_what_is_no_detector_is_not_recognised():
    assert recognise({"weight": torch.zeros(1)}) is None


def test_the_published_numbers_are_the_defaults():
    """RealGen's first release needs no number but the way images are resized."""
    assert dataclasses.asdict(OmniAIDConfig(preprocess="v1")) == {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 336,
        "layer_norm_eps": 1e-5,
        "num_experts": 6,
        "rank": 1,
        "top_k": 2,
        "router_hidden": 256,
        "hybrid": True,
        "router_input": "patch_embeddings",
        "expert_type": "svd",
        "dropout": 0.0,
        "preprocess": "v1",
    }
