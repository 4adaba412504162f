"""The stochastic steps of one rollout, recorded so that they can be scored again."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from realgen.functional.flow_sde import Transition, gaussian_log_prob
from realgen.parallel import send
from realgen.policies.backbones.base import Schedule
from realgen.types import Gaussian, PolicyScore


class WindowRecorder:
    """Records the window of each row: where it branches, its noise, and the latents, means and velocities of its steps.

    Before its window starts, the ``samples_per_noise`` samples that share a starting noise are one row. Rows stay
    prompt-major throughout, so that after the branching row = p * G + g. Which row does what is decided on the host,
    which therefore never waits for the device. ``starts`` are the first stochastic steps of the prompts, ``noise``
    [B, S, *latent] is standard normal, one for each decision, and keeps type and place; ``device`` is the latents'.
    """

    def __init__(
        self,
        starts: Int[Tensor, " prompts"],
        noise: Float[Tensor, "rows decisions *latent"],
        group_size: int,
        samples_per_noise: int,
        device: torch.device,
    ) -> None:
        self.num_rows, self.size, *latent = noise.shape
        self.starts, self.noise, self.device = starts.cpu(), noise, device
        self.group_size, self.samples_per_noise = group_size, samples_per_noise
        window = self.starts[:, None] + torch.arange(self.size)
        self.step_indices = send(window.repeat_interleave(group_size, dim=0), device)  # [B, S]
        # In the order of all B rows, also while samples that share a starting noise are still one row.
        self.latents = noise.new_zeros(self.num_rows, self.size + 1, *latent, device=device)
        self.mean = torch.zeros_like(self.latents[:, 1:])
        self.velocity = torch.zeros_like(self.mean)
        self.std = noise.new_zeros(self.num_rows, self.size, device=device)
        self.step_size = torch.zeros_like(self.std)

    def covers(self, step: int) -> Bool[Tensor, " prompts"]:
        """Return which prompts' windows cover this step, on the CPU."""
        return (self.starts <= step) & (step < self.starts + self.size)

    def branch(
        self, step: int, prompt_index: Int[Tensor, " live"], *tensors: Float[Tensor, "live *latent"]
    ) -> tuple[Tensor, ...]:
        """Give each sample of a prompt whose window starts at this step its own row; return prompts and tensors."""
        repeats = torch.where(self.starts[prompt_index] == step, self.samples_per_noise, 1)
        rows = torch.arange(len(repeats)).repeat_interleave(repeats)
        if len(rows) == len(repeats):
            return prompt_index, *tensors
        sent = send(rows, self.device)
        return prompt_index[rows], *(tensor[sent] for tensor in tensors)

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

        ``inside`` is on the CPU; mean and std are those of the next latents; the step size is sigma_i - sigma_{i+1}.
        """
        # All windows that cover this step have branched, so these rows of B are in the order of the live ones inside.
        rows = self.covers(step).repeat_interleave(self.group_size).nonzero().squeeze(1)
        if not len(rows):
            return mean
        decision = step - self.starts[rows // self.group_size]
        noise = send(self.noise[rows.to(self.noise.device), decision.to(self.noise.device)], self.device)
        live, rows, decision = send(torch.stack([inside.nonzero().squeeze(1), rows, decision]), self.device)
        following = mean.clone()
        following[live] += std[live].view(-1, *[1] * (mean.ndim - 1)) * noise  # [inside, 1, ...]
        self.latents[rows, decision] = latents[live]
        self.latents[rows, decision + 1] = following[live]
        self.mean[rows, decision], self.velocity[rows, decision] = mean[live], velocity[live]
        self.std[rows, decision], self.step_size[rows, decision] = std[live], step_size.to(std.dtype)
        return following

    def record(self, mean_std: Float[Tensor, ""]) -> dict[str, Any]:
        """Return the fields of a rollout that hold its decisions; for ``mean_std`` see ``Gaussian``."""
        made = (self.latents, self.mean, self.std, self.step_size, self.velocity, mean_std)
        return {
            "sampled": score_decisions(*made),
            "mask": self.std > 0,
            "policy_state": {"latents": self.latents, "step_indices": self.step_indices},
        }


class WindowStates:
    """States that some rows' recorded steps began from, where the velocity is evaluated; ``state`` is of these rows."""

    def __init__(self, state: Mapping[str, Tensor], schedule: Schedule, transition: Transition) -> None:
        device = schedule.sigmas.device
        self.path, self.schedule, self.transition = state["latents"].to(device), schedule, transition
        self.latents, self.steps = self.path[:, :-1], state["step_indices"].flatten().to(device)

    def score(self, velocity: Float[Tensor, "rows decisions *latent"]) -> PolicyScore:
        """Score the recorded steps with these velocities."""
        sigmas, shape = self.schedule.sigmas, velocity.shape[:2]
        sigma, following = sigmas[self.steps], sigmas[self.steps + 1]
        mean, std = self.transition.step(
            self.latents.flatten(0, 1), velocity.flatten(0, 1), sigma, following, sigmas[1]
        )
        step_size = (sigma - following).to(std.dtype).view(shape)
        mean_std = self.transition.mean_std(sigmas)
        return score_decisions(self.path, mean.unflatten(0, shape), std.view(shape), step_size, velocity, mean_std)


def score_decisions(
    latents: Float[Tensor, "rows nodes *latent"],
    mean: Float[Tensor, "rows decisions *latent"],
    std: Float[Tensor, "rows decisions"],
    step_size: Float[Tensor, "rows decisions"],
    velocity: Float[Tensor, "rows decisions *latent"],
    mean_std: Float[Tensor, ""],
) -> PolicyScore:
    """Score the latents that were reached, the same way for the sampling policy and for a later one.

    ``latents`` are those before the window and after each of its steps; ``std`` is 0 where nothing was decided, and the
    log-probability then set to 0. Log-probabilities are means over the latent, with gradient through ``mean``.
    """
    noisy = std > 0
    log_probs = gaussian_log_prob(latents[:, 1:], mean, torch.where(noisy, std, 1.0)) * noisy
    return PolicyScore(log_probs, Gaussian(mean, std, step_size, latents[:, 1:], mean_std.expand(len(std))), velocity)
