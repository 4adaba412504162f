import pytest
import torch

from realgen.detectors import Effort
from realgen.detectors.checkpoint import save


def test_class_one_is_fake(effort_network, images, tmp_path):
    with torch.no_grad():
        effort_network.head.weight.zero_()
        effort_network.head.bias.copy_(torch.tensor([3.0, 1.0]))
    p_fake = Effort(str(save(effort_network, tmp_path)))(images)
    torch.testing.assert_close(p_fake, torch.full((6,), -2.0).sigmoid())


def test_saved_and_read_again_it_answers_the_same(effort_network, tiny_effort, images):
    with torch.no_grad():
        expected = effort_network(images).softmax(-1)[:, 1]
    torch.testing.assert_close(tiny_effort(images), expected, atol=1e-6, rtol=0)


def test_reads_a_published_file(effort_network, tiny_effort, images, tmp_path):
    state = {f"module.{name}": value for name, value in effort_network.state_dict().items()}
    for name, shape in (("U_r", (24, 22)), ("S_r", (22,)), ("V_r", (22, 24)), ("weight_original_fnorm", ())):
        state[f"module.backbone.encoder.layers.0.self_attn.q_proj.{name}"] = torch.zeros(shape)
    torch.save(state, tmp_path / "published.pth")
    published = Effort(str(tmp_path / "published.pth"), config=str(tmp_path / "effort" / "config.json"))
    assert torch.equal(published(images[:3]), tiny_effort(images[:3]))


def test_an_omniaid_folder_is_refused(omniaid_network, tmp_path):
    with pytest.raises(ValueError, match="EffortConfig does not know"):
        Effort(str(save(omniaid_network, tmp_path)))
