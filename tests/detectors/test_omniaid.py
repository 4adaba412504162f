import json
from dataclasses import replace

import pytest
import torch

from experiments.nano.corpus import make_corpus
from realgen.detectors import Effort, OmniAID, OmniAIDDino, OmniAIDDinoConfig, OmniAIDNetwork, RoutedExperts
from realgen.detectors.checkpoint import save
from realgen.functional.images import from_uint8

SHIPPED = {"omniaid": OmniAID, "effort": Effort}


def test_class_one_is_fake(omniaid_network, images, tmp_path):
    with torch.no_grad():
        omniaid_network.head.weight.zero_()
        omniaid_network.head.bias.copy_(torch.tensor([1.0, 3.0]))
    p_fake = OmniAID(str(save(omniaid_network, tmp_path)))(images)
    torch.testing.assert_close(p_fake, torch.full((6,), 2.0).sigmoid())


def test_saved_and_read_again_it_answers_the_same(omniaid_network, tiny_omniaid, images):
    with torch.no_grad():
        expected = omniaid_network(images).softmax(-1)[:, 1]
    torch.testing.assert_close(tiny_omniaid(images), expected, atol=1e-6, rtol=0)


def test_reads_the_second_tower_as_older_transformers_named_it(clip_tower, images, tmp_path):
    network = OmniAIDNetwork.from_clip_vision(clip_tower, RoutedExperts(rank=2, router_input="frozen_tower")).eval()
    expected = OmniAID(str(save(network, tmp_path)))(images)
    old = {
        name.replace("feature_extractor.", "feature_extractor.vision_model."): value
        for name, value in network.state_dict().items()
    }
    old["feature_extractor.vision_model.embeddings.position_ids"] = torch.arange(17)
    torch.save({"model": old}, tmp_path / "old.pth")
    assert torch.equal(OmniAID(str(tmp_path / "old.pth"))(images), expected)


def test_the_config_of_the_checkpoint_can_be_overridden(omniaid_network, images, tmp_path):
    folder, config = str(save(omniaid_network, tmp_path)), omniaid_network.config
    v1, v2 = (OmniAID(folder, replace(config, preprocess=version))(images) for version in ("v1", "v2"))
    assert torch.equal(OmniAID(folder)(images), v2)
    assert (v1 - v2).abs().max() > 1e-4


def test_a_file_for_another_network_is_refused(omniaid_network, tmp_path):
    folder = save(omniaid_network, tmp_path)
    numbers = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**numbers, "router_input": "frozen_tower"}))
    with pytest.raises(ValueError, match=r"missing: feature_extractor\.embeddings\.class_embedding.* more"):
        OmniAID(str(folder))(torch.zeros(1, 3, 8, 8))


@pytest.fixture(scope="module")
def known(nano):
    """Real: held-out crops. Generated: the same crops, smoothed and over-saturated as a generator would."""
    corpus = make_corpus(3, seed=31337, held_out=True)
    return from_uint8(corpus.real), from_uint8(corpus.ai)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_generated_images_get_the_higher_p_fake(nano, known, name):
    real, generated = (SHIPPED[name](str(nano / name))(images) for images in known)
    assert real.mean() < 0.5 < generated.mean()
    assert (real[:, None] < generated).float().mean() > 0.9, "area under the ROC curve"


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_bfloat16_stays_near(nano, known, name):
    exact, rough = (SHIPPED[name](str(nano / name), dtype=dtype)(known[0]) for dtype in ("float32", "bfloat16"))
    assert rough.dtype == torch.float32
    assert 0 < (exact - rough).abs().max() < 0.1
    assert (exact - rough).abs().mean() < 0.02


def test_class_one_is_fake_on_dino(omniaid_dino_network, images, tmp_path):
    with torch.no_grad():
        omniaid_dino_network.head.weight.zero_()
        omniaid_dino_network.head.bias.copy_(torch.tensor([1.0, 3.0]))
    p_fake = OmniAIDDino(str(save(omniaid_dino_network, tmp_path)))(images)
    torch.testing.assert_close(p_fake, torch.full((6,), 2.0).sigmoid())


def test_the_config_of_the_checkpoint_can_be_overridden_on_dino(omniaid_dino_network, images, tmp_path):
    folder, config = str(save(omniaid_dino_network, tmp_path)), omniaid_dino_network.config
    v1, v2 = (OmniAIDDino(folder, replace(config, preprocess=version))(images) for version in ("v1", "v2"))
    assert torch.equal(OmniAIDDino(folder)(images), v2)
    assert (v1 - v2).abs().max() > 1e-4


def test_the_published_numbers_are_the_defaults_on_dino():
    config = OmniAIDDinoConfig()
    assert (config.image_size, config.patch_size, config.rank, config.num_experts) == (448, 16, 1, 6)
    assert config.router_input == "frozen_tower"
