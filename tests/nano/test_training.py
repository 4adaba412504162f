"""The training loop: schedule, running average, and a killed run that ends where an unbroken one does."""

import math

import pytest
import torch
from torch import nn

from experiments.nano.training import SAVE_SECONDS, Training, cosine_lr, trapezoid_lr


class Killed(BaseException):
    """What a signal would do."""


def network():
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.GELU(), nn.Linear(4, 1))


def one_optimizer(model):
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


def two_optimizers(model):
    """Muon for the matrices, AdamW for the rest, as the diffusion model is trained."""
    matrices = [weight for weight in model.parameters() if weight.ndim == 2]
    others = [weight for weight in model.parameters() if weight.ndim < 2]
    return [torch.optim.Muon(matrices, lr=1e-2), torch.optim.AdamW(others, lr=1e-2)]


def train(folder, steps, *, killed_at=None, average=0.9, save_seconds=SAVE_SECONDS, optimizers=one_optimizer):
    """Fit noise, as every nano model is fitted; returns the training and the steps it did."""
    model = network()
    optimizer = optimizers(model)
    training = Training(folder / "run.ckpt", model, optimizer, seed=1, average=average, save_seconds=save_seconds)
    done = []
    for step in training.steps(steps, "test"):
        inputs = torch.randn(8, 3, generator=training.generator(step))
        loss = (model(inputs)[:, 0] - inputs.sum(1)).square().mean()
        if step == killed_at:
            raise Killed
        training.update(loss, lr=cosine_lr(step, steps, peak=1e-2, warmup=3))
        done.append(step)
    return training, done


@pytest.mark.parametrize("optimizers", [one_optimizer, two_optimizers])
@pytest.mark.parametrize("average", [0.9, None])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, average, optimizers):
    straight, _ = train(tmp_path / "straight", 12, average=average, optimizers=optimizers)
    with pytest.raises(Killed):
        train(tmp_path / "killed", 12, killed_at=7, average=average, save_seconds=0.0, optimizers=optimizers)
    assert (tmp_path / "killed" / "run.ckpt").is_file()
    resumed, done = train(tmp_path / "killed", 12, average=average, optimizers=optimizers)
    assert done == [7, 8, 9, 10, 11]
    for name, value in straight.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    assert resumed.averaged.keys() == straight.averaged.keys()
    assert all(torch.equal(resumed.averaged[name], value) for name, value in straight.averaged.items())
    assert not torch.equal(resumed.model[0].weight, network()[0].weight)


def test_a_half_written_checkpoint_is_no_checkpoint(tmp_path):
    (tmp_path / "run.tmp").write_bytes(b"cut off")
    _, done = train(tmp_path, 3)
    assert done == [0, 1, 2]


def test_nothing_is_saved_before_its_time_and_nothing_is_left(tmp_path):
    with pytest.raises(Killed):
        train(tmp_path, 5, killed_at=4)
    assert not list(tmp_path.iterdir())
    train(tmp_path, 5, save_seconds=0.0)
    assert not list(tmp_path.iterdir())


def test_batches_depend_on_seed_and_step_alone(tmp_path):
    model = network()

    def draw(seed, step):
        optimizer = torch.optim.SGD(model.parameters())
        return torch.rand(4, generator=Training(tmp_path / "x", model, optimizer, seed=seed).generator(step)).tolist()

    assert draw(0, 3) == draw(0, 3)
    assert len({tuple(draw(seed, step)) for seed in range(3) for step in range(20)}) == 60


def test_average_by_hand(tmp_path):
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    training = Training(tmp_path / "x", model, torch.optim.SGD(model.parameters(), lr=1.0), seed=0, average=0.75)
    for _ in training.steps(2, "test"):
        training.update(model.weight.sum(), lr=0.1)
    # weight 1 -> 0.9 -> 0.8; average 1 -> 0.975 -> 0.75 * 0.975 + 0.25 * 0.8
    assert model.weight.item() == pytest.approx(0.8)
    assert training.averaged["weight"].item() == pytest.approx(0.93125)


def test_gradients_are_clipped_and_groups_have_their_own_rate(tmp_path):
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    model = nn.ParameterList([first, second])
    groups = [{"params": [first]}, {"params": [second], "lr_scale": 0.5}]
    training = Training(tmp_path / "x", model, torch.optim.SGD(groups, lr=1.0), seed=0)
    for _ in training.steps(1, "test"):
        training.update(30 * first.sum() + 40 * second.sum(), lr=0.1, clip=1.0)
    # the gradient (30, 40) has length 50 and is cut to (0.6, 0.8)
    assert first.item() == pytest.approx(-0.06)
    assert second.item() == pytest.approx(-0.04)


def test_cosine_lr_by_hand():
    assert cosine_lr(0, 100, peak=1.0, warmup=10) == pytest.approx(0.1)
    assert cosine_lr(9, 100, peak=1.0, warmup=10) == pytest.approx(1.0)
    assert cosine_lr(10, 100, peak=2.0, warmup=10) == pytest.approx(2.0)
    assert cosine_lr(55, 100, peak=1.0, warmup=10) == pytest.approx(0.01 + 0.99 / 2)
    quarter = 0.5 * (1 + math.cos(math.pi / 4))
    assert cosine_lr(30, 90, peak=1.0, warmup=10) == pytest.approx(0.01 + 0.99 * quarter)
    assert cosine_lr(100, 100, peak=1.0, warmup=10) == pytest.approx(0.01)


def test_trapezoid_lr_by_hand():
    rates = [trapezoid_lr(step, 100, peak=2.0, warmup=10, decay=0.25) for step in range(100)]
    assert rates[:2] == pytest.approx([0.2, 0.4])
    assert rates[9:76] == [2.0] * 67
    assert rates[80] == pytest.approx(2.0 * 20 / 25)
    assert rates[99] == pytest.approx(2.0 / 25)
    assert trapezoid_lr(100, 100, peak=2.0, warmup=10, decay=0.25) == pytest.approx(0.02)
    # on its plateau it does not know how long the run is
    assert trapezoid_lr(70, 1000, peak=2.0, warmup=10, decay=0.25) == rates[70]


def test_every_optimizer_steps_at_the_rate_of_the_step(tmp_path):
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizers = [torch.optim.SGD([first], lr=1.0), torch.optim.SGD([{"params": [second], "lr_scale": 0.5}], lr=1.0)]
    training = Training(tmp_path / "x", nn.ParameterList([first, second]), optimizers, seed=0)
    for _ in training.steps(2, "test"):
        training.update(first.sum() + second.sum(), lr=0.1, clip=10.0)
    assert (first.item(), second.item()) == pytest.approx((-0.2, -0.1))


def test_warmup_longer_than_the_run():
    assert cosine_lr(1, 2, peak=1.0, warmup=100) == pytest.approx(0.02)
