import torch

from realgen.rewards import Realism


def test_is_one_minus_p_fake(brightness, samples):
    output = Realism(brightness)(samples)
    torch.testing.assert_close(output.total, torch.tensor([[1.0, 0.9, 0.8], [0.7, 0.6, 0.5]]))
    assert list(output.components) == ["realism"]


def test_a_broken_image_is_marked_and_alone_in_it(brightness, make_samples):
    images = torch.full((4, 3, 4, 4), 0.25)
    images[1, 0, 0, 0] = torch.nan
    output = Realism(brightness)(make_samples(images, ["a", "b"], group_size=2))
    assert output.valid.tolist() == [[True, False], [True, True]]
    assert output.total[output.valid].tolist() == [0.75] * 3


def test_moves_its_detector(brightness):
    reward = Realism(brightness)
    assert reward.to("meta") is reward
    assert next(brightness.network.parameters()).device.type == "meta"
