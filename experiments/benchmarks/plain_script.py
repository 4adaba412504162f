"""One GRPO iteration as the published scripts make it, written anew from their description and never from their code.

What they do, and this does too:

- A call of the pipeline has one prompt and one starting noise. Its text is embedded in each call; ``samples_per_noise``
  images share the steps before the window and branch where it starts. Its images are decoded at its end.
- Rewards judge one image at a time; a map with experts stacks all of them anew.
- Training goes through the calls in order, and in each through the decisions one by one: the policy's forward pass, the
  reference's (adapters off), a backward pass. Their gradients add up to one update.

It learns as much as ours: the same prompts, images, decisions, loss and update; windows and noise come from the same
generator in the same order. Where the published way is wrong, or slower still for no reason of method, it is mended, to
the baseline's good: latents stay float32, no reward is a server and nothing is pickled, RatioNorm's bias is per sample,
weights are averaged once per update.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from detector_scoring import OneByOne
from PIL import Image
from torch import Tensor

from realgen.detectors import OmniAIDNetwork
from realgen.functional.flow_sde import FlowSDE
from realgen.functional.images import to_uint8
from realgen.modules import GRPOModule
from realgen.modules.seeds import iteration_generator
from realgen.objectives import GRPOGuard
from realgen.parallel import autocast_without_cache
from realgen.policies import DiffusionPolicy
from realgen.rewards import Realism
from realgen.rewards.base import Reward
from realgen.rewards.clip_similarity import ClipSimilarity
from realgen.types import PromptBatch, Samples


@dataclass
class Sampled:
    """One call of the pipeline: ``samples_per_noise`` images of one prompt, and what training reads."""

    prompt: int
    """Which of the P prompts."""
    text: dict[str, Tensor]
    start: int
    """First stochastic step."""
    latents: list[Tensor] = field(default_factory=list)
    """Before the window, and after each of its steps."""
    means: list[Tensor] = field(default_factory=list)
    log_probs: list[Tensor] = field(default_factory=list)
    images: Tensor = field(default_factory=lambda: torch.empty(0))


class PlainScript:
    """Trains the policy of a module for one iteration at a time, without using anything of ours but its networks.

    Args:
        module: With a ``DiffusionPolicy`` that has adapters, ``FlowSDE``, and ``GRPOGuard`` with the velocity KL.
        optimizer: Of the policy's adapters.

    Raises:
        ValueError: If the module trains in another way than the published scripts do.
    """

    def __init__(self, module: GRPOModule, optimizer: torch.optim.Optimizer) -> None:
        policy, objective = module.policy, module.objective
        if not (isinstance(policy, DiffusionPolicy) and policy.lora and isinstance(policy.transition, FlowSDE)):
            raise ValueError("model.policy must be a DiffusionPolicy with lora and FlowSDE, as the published one.")
        if not (isinstance(objective, GRPOGuard) and objective.kl == "velocity" and objective.needs_reference):
            raise ValueError("model.objective must be GRPOGuard with kl velocity and kl_coef above 0, as published.")
        if module.updates_per_epoch * module.inner_epochs != 1:
            raise ValueError(
                "updates_per_epoch and inner_epochs must be 1: more of them shuffle the rows between updates."
            )
        self.module, self.policy, self.objective, self.optimizer = module, policy, objective, optimizer
        self.sigmas, self.timesteps = (part.to(policy.device) for part in self._schedule())
        self.one_by_one = {name: self._single_scorer(reward) for name, reward in rewards_of(module.reward).items()}
        self.weights = dict(getattr(module.reward, "weights", {module.reward.name: 1.0}))

    def iterate(self, batch: PromptBatch, rewards: dict[str, Tensor] | None = None) -> list[Sampled]:
        """One iteration.

        Args:
            batch: The P prompts.
            rewards: [P, G] by name, to be learned from in place of its own.

        Returns:
            What was sampled, call by call. The gradient is that of the update, clipped.
        """
        generator = iteration_generator(self.module.seed, self.module.global_rank, self.module.iteration)
        samples = self.sample(batch.prompts, generator)
        own = self.judge(batch.prompts, samples)
        self.train(samples, self.advantages(own if rewards is None else rewards))
        return samples

    @torch.no_grad()
    def sample(self, prompts: tuple[str, ...], generator: torch.Generator) -> list[Sampled]:
        """Call the pipeline once for each noise of each prompt."""
        policy, group = self.policy, self.module.group_size
        shared = policy.samples_per_noise
        when: Any = {"iteration": self.module.iteration, "generator": generator}
        starts = policy.step_window.sample(len(prompts), policy.num_steps, **when).tolist()
        shape = policy.latent_shape
        first = torch.randn(len(prompts) * group // shared, *shape, generator=generator)
        decisions = policy.step_window.decisions(policy.num_steps)
        noise = torch.randn(len(prompts) * group, decisions, *shape, generator=generator)
        samples = []
        for index, row in enumerate(first):
            prompt = index * shared // group
            sample = Sampled(prompt, self.embed(prompts[prompt]), starts[prompt])
            rows = noise[index * shared : (index + 1) * shared].to(policy.device)
            samples.append(self.call_pipeline(sample, row[None].to(policy.device), rows))
        return samples

    def embed(self, prompt: str) -> dict[str, Tensor]:
        """The prompt's embeddings, and with guidance those of the negative prompt, as rows of one."""
        backbone = self.policy.backbone
        texts = {"": prompt} | ({"negative_": backbone.negative_prompt} if backbone.guided else {})
        return {
            f"{prefix}{name}": part[None]
            for prefix, text in texts.items()
            for name, part in backbone.encode(text).items()
        }

    def call_pipeline(self, sample: Sampled, latents: Tensor, noise: Tensor) -> Sampled:
        """Denoise one latent, branch where the window starts, decode."""
        for step in range(self.policy.num_steps):
            inside = step - sample.start
            if inside == 0:
                latents = latents.repeat(len(noise), *[1] * (latents.ndim - 1))
                sample.latents.append(latents)
            velocity = self.velocity(sample.text, latents, step)
            if 0 <= inside < noise.shape[1]:
                mean, std = self.sde_step(latents, velocity, step)
                latents = mean + std * noise[:, inside]
                sample.latents.append(latents)
                sample.means.append(mean)
                sample.log_probs.append(log_prob(latents, mean, std))
            else:
                latents = latents + velocity * (self.sigmas[step + 1] - self.sigmas[step])
        sample.images = self.policy.backbone.decode(latents)
        return sample

    def velocity(self, text: dict[str, Tensor], latents: Tensor, step: int) -> Tensor:
        """The transformer's answer for rows of one prompt at one step."""
        rows = len(latents)
        conditioning = {name: part.expand(rows, *part.shape[1:]) for name, part in text.items()}
        with autocast_without_cache(latents.device.type):
            return self.policy.backbone.velocity(latents, self.timesteps[step].expand(rows), conditioning)

    def sde_step(self, latents: Tensor, velocity: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Mean and std of Flow-GRPO's step, in the published form."""
        sigma, dt = self.sigmas[step], self.sigmas[step + 1] - self.sigmas[step]
        bounded = self.sigmas[1] if sigma == 1 else sigma
        scale = self.policy.transition.noise_level * (sigma / (1 - bounded)).sqrt()
        drift = scale**2 / (2 * sigma)
        return latents * (1 + drift * dt) + velocity * (1 + drift * (1 - sigma)) * dt, scale * (-dt).sqrt()

    @torch.no_grad()
    def judge(self, prompts: tuple[str, ...], samples: list[Sampled]) -> dict[str, Tensor]:
        """Rewards [P, G] by name, image by image."""
        judged = {
            name: [score(prompts[sample.prompt], image) for sample in samples for image in sample.images]
            for name, score in self.one_by_one.items()
        }
        return {name: torch.tensor(values).view(len(prompts), -1) for name, values in judged.items()}

    def advantages(self, rewards: dict[str, Tensor]) -> Tensor:
        """Each reward against its group, added by weight, clipped; one per row."""
        total = torch.zeros_like(next(iter(rewards.values())))
        for name, values in rewards.items():
            spread = values.std(dim=1, correction=0, keepdim=True) + 1e-4
            total += self.weights[name] * (values - values.mean(dim=1, keepdim=True)) / spread
        if self.objective.divide_by_weights:
            total /= sum(self.weights.values())
        return total.clamp(-self.objective.advantage_clip, self.objective.advantage_clip).flatten()

    def train(self, samples: list[Sampled], advantages: Tensor) -> None:
        """One update from the gradients of all micro-steps."""
        self.optimizer.zero_grad()
        parts = advantages.to(self.policy.device).split(self.policy.samples_per_noise)
        micro_steps = sum(len(sample.means) for sample in samples)
        for sample, advantage in zip(samples, parts, strict=True):
            for decision in range(len(sample.means)):
                reference = self.reference_velocity(sample, decision)
                self.learn(sample, decision, advantage, reference, micro_steps)
        self.update()

    @torch.no_grad()
    def reference_velocity(self, sample: Sampled, decision: int) -> Tensor:
        """The same forward pass with the adapters off."""
        with self.policy.reference():
            return self.velocity(sample.text, sample.latents[decision], sample.start + decision)

    def learn(self, sample: Sampled, decision: int, advantage: Tensor, reference: Tensor, micro_steps: int) -> None:
        """One micro-step: the loss of one decision of the call's images, and its gradient."""
        step, latents, following = sample.start + decision, sample.latents[decision], sample.latents[decision + 1]
        velocity = self.velocity(sample.text, latents, step)
        mean, std = self.sde_step(latents, velocity, step)
        bias = (mean - sample.means[decision]).square().flatten(1).mean(1) / (2 * std**2)
        ratio = ((log_prob(following, mean, std) - sample.log_probs[decision] + bias) * std).exp()
        clipped = ratio.clamp(1 - self.objective.clip_low, 1 + self.objective.clip_high)
        surrogate = torch.maximum(-advantage * ratio, -advantage * clipped).mean()
        surrogate = surrogate / (self.sigmas[step] - self.sigmas[step + 1])
        loss = surrogate + self.objective.kl_coef * (velocity - reference).square().mean()
        self.backward(loss / micro_steps)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a micro-step."""
        loss.backward()

    def update(self) -> None:
        """Clip the gradient and step."""
        torch.nn.utils.clip_grad_norm_(self.policy.trainable_parameters().values(), self.module.max_grad_norm)
        self.optimizer.step()

    def _schedule(self) -> Any:
        policy = self.policy
        return policy.backbone.schedule(policy.num_steps, policy.height, policy.width)

    def _single_scorer(self, reward: Reward) -> Any:
        """A reward as a server scores it: text and image in, a number out."""
        if isinstance(reward, Realism) and isinstance(reward.detector.network, OmniAIDNetwork):
            network = reward.detector.build()  # the detector's own is merged already
            assert isinstance(network, OmniAIDNetwork)
            device = self.policy.device
            one_by_one = OneByOne(network.to(device), device)
            return lambda _, image: 1 - one_by_one([Image.fromarray(to_uint8(image).permute(1, 2, 0).cpu().numpy())])[0]

        def score(prompt: str, image: Tensor) -> float:
            if isinstance(reward, ClipSimilarity):
                reward._text_cache.clear()  # a server is sent the text with every image
            return float(reward.score(Samples((prompt,), 1, image[None])))

        return score


def rewards_of(reward: Reward) -> dict[str, Reward]:
    """The rewards that are summed up, or the only one, by name."""
    return getattr(reward, "rewards", {reward.name: reward})


def log_prob(sample: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Of each row, the mean over the latent's elements."""
    distance = (sample.detach() - mean).square() / (2 * std**2)
    return (-distance - std.log() - torch.log(torch.sqrt(torch.tensor(2 * torch.pi)))).flatten(1).mean(1)
