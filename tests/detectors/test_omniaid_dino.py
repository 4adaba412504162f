import torch

from realgen.detectors.checkpoint import save
from realgen.detectors.omniaid_config import OmniAIDDinoConfig
from realgen.detectors.omniaid_dino import OmniAIDDino


def test_class_one_is_fake(omniaid_dino_network, images, tmp_path):
    with torch.no_grad():
        omniaid_dino_network.head.weight.zero_()
        omniaid_dino_network.head.bias.copy_(torch.tensor([1.0, 3.0]))
    p_fake = OmniAIDDino(str(save(omniaid_dino_network, tmp_path)))(images)
    torch.testing.assert_close(p_fake, torch.full((6,), 2.0).sigmoid())


def test_preprocess_of_the_checkpoint_can_be_overridden(omniaid_dino_network, images, tmp_path):
    folder = str(save(omniaid_dino_network, tmp_path))
    v1, v2 = (OmniAIDDino(folder, preprocess=version)(images) for version in ("v1", "v2"))
    assert torch.equal(OmniAIDDino(folder)(images), v2)
    assert (v1 - v2).abs().max() > 1e-4


def test_the_published_numbers_are_the_defaults():
    config = OmniAIDDinoConfig()
    assert (config.image_size, config.patch_size, config.rank, config.num_experts) == (448, 16, 1, 6)
    assert config.router_input == "frozen_tower"
