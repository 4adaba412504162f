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


def test_an_omniaid_folder_is_refused(omniaid_network, tmp_path):
    with pytest.raises(ValueError, match="EffortConfig does not know"):
        Effort(str(save(omniaid_network, tmp_path)))
