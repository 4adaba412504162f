"""The stochastic steps of one rollout, recorded so that they can be scored again."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from realgen.functional.flow_sde import gaussian_log_prob
from realgen.types import Gaussian, PolicyScore


class WindowRecorder:
    """Records the window of each row: where it branches, its noise, and the latents, means and velocities of its steps.

    Before its window starts, the ``samples_per_noise`` samples that share a starting noise are one row. Rows stay
    prompt-major throughout, so that after the branching row = p * G + g.

    Args:
        starts: First stochastic step of each prompt.
        noise: [B, S, *latent] standard normal, one for each decision; may stay on the CPU. Its type is kept.
        group_size: G.
        samples_per_noise: Samples that share a starting noise; divides G.
    """

    def __init__(
        self,
        starts: Int[Tensor, " prompts"],
        noise: Float[Tensor, "rows decisions *latent"],
        group_size: int,
        samples_per_noise: int,
    ) -> None:
        self.num_rows, self.size, *latent = noise.shape
        self.starts, self.noise = starts, noise
        self.group_size, self.samples_per_noise = group_size, samples_per_noise
        window = starts[:, None] + torch.arange(self.size, device=starts.device)
        self.step_indices = window.repeat_interleave(group_size, dim=0)  # [B, S]
        # In the order of all B rows, also while samples that share a starting noise are still one row.
        self.latents = noise.new_zeros(self.num_rows, self.size + 1, *latent, device=starts.device)
        self.mean = torch.zeros_like(self.latents[:, 1:])
        self.velocity = torch.zeros_like(self.mean)
        self.std = noise.new_zeros(self.num_rows, self.size, device=starts.device)
        self.step_size = torch.zeros_like(self.std)

    def covers(self, step: int) -> Bool[Tensor, " prompts"]:
        """Return which prompts' windows cover this step."""
        return (self.starts <= step) & (step < self.starts + self.size)

    def branch(
        self, step: int, owner: Int[Tensor, " live"], *tensors: Float[Tensor, "live *latent"]
    ) -> tuple[Tensor, ...]:
        """Give each sample of a prompt whose window starts at this step a row of its own.

        Args:
            step: The step to come.
            owner: The prompt of each row.
            *tensors: Of the rows so far.

        Returns:
            Prompts and tensors of the rows from here on.
        """
        repeats = torch.where(self.starts[owner] == step, self.samples_per_noise, 1)
        return tuple(tensor.repeat_interleave(repeats, dim=0) for tensor in (owner, *tensors))

    def decide(
        self,
        step: int,
        inside: Bool[Tensor, " live"],
        latents: Float[Tensor, "live *latent"],
        velocity: Float[Tensor, "live *latent"],
        mean: Float[Tensor, "live *latent"],
        std: Float[Tensor, " live"],
        step_size: Float[Tensor, ""],
    ) -> Float[Tensor, "live *latent"]:
        """Draw the next latents of the rows inside their window and record them; the others take their mean.

        Args:
            step: The step taken.
            inside: Rows inside their window.
            latents: Before the step.
            velocity: The transformer's.
            mean: Of the next latents.
            std: Of the next latents.
            step_size: sigma_i - sigma_{i+1}.

        Returns:
            The next latents.
        """
        # All windows that cover this step have branched, so these rows of B are in the order of the live ones inside.
        rows = self.covers(step).repeat_interleave(self.group_size).nonzero().squeeze(1)
        decision = step - self.starts[rows // self.group_size]
        noise = self.noise[rows.to(self.noise.device), decision.to(self.noise.device)].to(mean.device)
        following = mean.clone()
        following[inside] += std[inside].view(-1, *[1] * (mean.ndim - 1)) * noise  # [inside, 1, ...]
        self.latents[rows, decision] = latents[inside]
        self.latents[rows, decision + 1] = following[inside]
        self.mean[rows, decision], self.velocity[rows, decision] = mean[inside], velocity[inside]
        self.std[rows, decision], self.step_size[rows, decision] = std[inside], step_size.to(std.dtype)
        return following

    def score(self) -> PolicyScore:
        """Return the sampling policy's score of its own decisions."""
        return score_decisions(self.latents, self.mean, self.std, self.step_size, self.velocity)


def score_decisions(
    latents: Float[Tensor, "rows nodes *latent"],
    mean: Float[Tensor, "rows decisions *latent"],
    std: Float[Tensor, "rows decisions"],
    step_size: Float[Tensor, "rows decisions"],
    velocity: Float[Tensor, "rows decisions *latent"],
) -> PolicyScore:
    """Score the latents that were reached, the same way for the sampling policy and for a later one.

    Args:
        latents: [b, S + 1, *latent] before the window and after each of its steps.
        mean: Of each next latent.
        std: Of each next latent; 0 where nothing was decided: the log-probability is then set to 0.
        step_size: sigma_i - sigma_{i+1}.
        velocity: The transformer's at each step.

    Returns:
        Log-probabilities (means over the elements of the latent), with gradient through ``mean``.
    """
    noisy = std > 0
    log_probs = gaussian_log_prob(latents[:, 1:], mean, torch.where(noisy, std, 1.0)) * noisy
    return PolicyScore(log_probs, Gaussian(mean=mean, std=std, step_size=step_size), velocity)
