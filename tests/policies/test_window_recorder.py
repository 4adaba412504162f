import torch
from torch.distributions import Normal

from realgen.policies.window_recorder import WindowRecorder, score_decisions

CPU = torch.device("cpu")


def test_rows_branch_where_their_prompts_window_starts() -> None:
    # two prompts of four samples, two noises each; the first branches at step 0, the second at step 2
    noise = torch.zeros(8, 1, 1)
    recorder = WindowRecorder(torch.tensor([0, 2]), noise, group_size=4, samples_per_noise=2, device=CPU)
    latents, owner = torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([0, 0, 1, 1])
    owner, latents = recorder.branch(0, owner, latents)
    assert latents.flatten().tolist() == [1, 1, 2, 2, 3, 4]
    assert owner.tolist() == [0, 0, 0, 0, 1, 1]
    owner, latents = recorder.branch(1, owner, latents)
    assert len(latents) == 6
    owner, latents = recorder.branch(2, owner, latents)
    assert latents.flatten().tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    assert owner.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_a_decision_is_kept_in_the_row_that_took_it() -> None:
    # one sample for each of two prompts, windows {0, 1} and {1, 2}; one-pixel latents
    noise = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])
    recorder = WindowRecorder(torch.tensor([0, 1]), noise, group_size=1, samples_per_noise=1, device=CPU)
    assert recorder.step_indices.tolist() == [[0, 1], [1, 2]]
    latents = torch.tensor([[10.0], [20.0]])
    for step, (covered, expected) in enumerate(
        # mean = latents + 1, std = 0.5 inside the window
        [([True, False], [11.5, 21.0]), ([True, True], [13.5, 23.5]), ([False, True], [14.5, 26.5])]
    ):
        stochastic = torch.tensor(covered)
        assert torch.equal(recorder.covers(step), stochastic)
        std = torch.where(stochastic, 0.5, 0.0)
        latents = recorder.decide(step, stochastic, latents, -latents, latents + 1, std, torch.tensor(0.1 * (step + 1)))
        assert latents.flatten().tolist() == expected
    assert recorder.latents.flatten(1).tolist() == [[10.0, 11.5, 13.5], [21.0, 23.5, 26.5]]
    assert recorder.mean.flatten(1).tolist() == [[11.0, 12.5], [22.0, 24.5]]
    assert recorder.velocity.flatten(1).tolist() == [[-10.0, -11.5], [-21.0, -23.5]]
    assert torch.equal(recorder.std, torch.full((2, 2), 0.5))
    assert torch.equal(recorder.step_size, torch.tensor([[0.1, 0.2], [0.2, 0.3]]))


def test_scores_are_mean_log_densities_with_gradient_through_the_mean() -> None:
    latents, mean = torch.randn(3, 3, 2, 4), torch.randn(3, 2, 2, 4).requires_grad_()
    std, step_size = torch.rand(3, 2) + 0.5, torch.rand(3, 2)
    score = score_decisions(latents, mean, std, step_size, torch.randn(3, 2, 2, 4), torch.ones(()))
    truth = Normal(mean, std[..., None, None]).log_prob(latents[:, 1:]).mean(dim=(2, 3))
    torch.testing.assert_close(score.log_probs, truth)
    (gradient,) = torch.autograd.grad(score.log_probs.sum(), mean)
    torch.testing.assert_close(gradient, (latents[:, 1:] - mean.detach()) / std[..., None, None] ** 2 / 8)


def test_where_there_is_no_noise_nothing_is_decided() -> None:
    mean = torch.randn(2, 2, 3).requires_grad_()
    std = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    score = score_decisions(torch.randn(2, 3, 3), mean, std, torch.ones(2, 2), torch.zeros(2, 2, 3), torch.ones(()))
    assert score.log_probs[0, 0] == score.log_probs[1, 1] == 0
    assert score.log_probs[0, 1] != 0
    (gradient,) = torch.autograd.grad(score.log_probs.sum(), mean)
    assert gradient.isfinite().all()
    assert gradient[0, 0].count_nonzero() == 0
