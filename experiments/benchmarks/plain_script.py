"""One GRPO iteration as the published scripts make it, written anew from their description and never from their code.

What they do, and this does too:

- A call of the pipeline has one prompt and one starting noise. Its text is embedded in each call; ``samples_per_noise``
  images share the steps before the window and branch where it starts. Its images are decoded at its end.
- Rewards judge one image at a time; a map with experts stacks all of them anew.
- With more ``rows`` than a call's images, as their user can set too, several calls go through each step together, a
  prompt is embedded once for all of them, and rewards judge in batches.
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
        rows: Most rows of a transformer call, guidance aside; ``None``: the images of one noise, as published.

    Raises:
        ValueError: If the module trains in another way than the published scripts do.
    """

    def __init__(self, module: GRPOModule, optimizer: torch.optim.Optimizer, rows: int | None = None) -> None:
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
        self.noises_per_call = max(1, (rows or 1) // policy.samples_per_noise)
        self.rewards = rewards_of(module.reward)
        self.one_by_one = {name: self._single_scorer(reward) for name, reward in self.rewards.items()}
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
        prompt_of = [index * shared // group for index in range(len(first))]
        samples = []
        for call in torch.arange(len(first)).split(self.noises_per_call):
            texts = {prompt_of[index]: self.embed(prompts[prompt_of[index]]) for index in call.tolist()}
            samples += self.call_pipeline(
                [
                    Sampled(prompt_of[index], texts[prompt_of[index]], starts[prompt_of[index]])
                    for index in call.tolist()
                ],
                list(first[call].to(policy.device).split(1)),
                list(noise[call[0] * shared : (call[-1] + 1) * shared].to(policy.device).split(shared)),
            )
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

    def call_pipeline(self, samples: list[Sampled], latents: list[Tensor], noise: list[Tensor]) -> list[Sampled]:
        """Denoise the latents of some noises, branch each where its window starts, decode."""
        for step in range(self.policy.num_steps):
            for index, sample in enumerate(samples):
                if step == sample.start:
                    latents[index] = latents[index].repeat(len(noise[index]), *[1] * (latents[index].ndim - 1))
                    sample.latents.append(latents[index])
            velocities = self.velocities(samples, latents, [step] * len(samples))
            for index, (sample, velocity) in enumerate(zip(samples, velocities, strict=True)):
                inside = step - sample.start
                if 0 <= inside < noise[index].shape[1]:
                    mean, std = self.sde_step(latents[index], velocity, step)
                    latents[index] = mean + std * noise[index][:, inside]
                    sample.latents.append(latents[index])
                    sample.means.append(mean)
                    sample.log_probs.append(log_prob(latents[index], mean, std))
                else:
                    latents[index] = latents[index] + velocity * (self.sigmas[step + 1] - self.sigmas[step])
        images = self.policy.backbone.decode(torch.cat(latents)).split([len(rows) for rows in latents])
        for sample, own in zip(samples, images, strict=True):
            sample.images = own
        return samples

    def velocities(self, samples: list[Sampled], latents: list[Tensor], steps: list[int]) -> list[Tensor]:
        """The transformer's answer for the rows of some samples, each at a step of its own, in one call."""
        rows = [len(own) for own in latents]
        conditioning = {
            name: torch.cat(
                [s.text[name].expand(n, *s.text[name].shape[1:]) for s, n in zip(samples, rows, strict=True)]
            )
            for name in samples[0].text
        }
        timesteps = torch.cat([self.timesteps[step].expand(n) for step, n in zip(steps, rows, strict=True)])
        with autocast_without_cache(timesteps.device.type):
            return list(self.policy.backbone.velocity(torch.cat(latents), timesteps, conditioning).split(rows))

    def sde_step(self, latents: Tensor, velocity: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Mean and std of Flow-GRPO's step, in the published form."""
        sigma, dt = self.sigmas[step], self.sigmas[step + 1] - self.sigmas[step]
        bounded = self.sigmas[1] if sigma == 1 else sigma
        scale = self.policy.transition.noise_level * (sigma / (1 - bounded)).sqrt()
        drift = scale**2 / (2 * sigma)
        return latents * (1 + drift * dt) + velocity * (1 + drift * (1 - sigma)) * dt, scale * (-dt).sqrt()

    @torch.no_grad()
    def judge(self, prompts: tuple[str, ...], samples: list[Sampled]) -> dict[str, Tensor]:
        """Rewards [P, G] by name, image by image, or with larger calls in batches."""
        if self.noises_per_call > 1:
            batch = Samples(prompts, self.module.group_size, torch.cat([sample.images for sample in samples]))
            return {name: reward.score(batch).view(len(prompts), -1).cpu() for name, reward in self.rewards.items()}
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
        for call in torch.arange(len(samples)).split(self.noises_per_call):
            together = [samples[index] for index in call.tolist()]
            for decision in range(len(together[0].means)):
                reference = self.reference_velocity(together, decision)
                self.learn(together, decision, [parts[index] for index in call.tolist()], reference, micro_steps)
        self.update()

    def decisive_velocities(self, samples: list[Sampled], decision: int) -> list[Tensor]:
        """The transformer's answer where some samples took one of their decisions."""
        return self.velocities(
            samples, [sample.latents[decision] for sample in samples], [sample.start + decision for sample in samples]
        )

    @torch.no_grad()
    def reference_velocity(self, samples: list[Sampled], decision: int) -> list[Tensor]:
        """The same forward pass with the adapters off."""
        with self.policy.reference():
            return self.decisive_velocities(samples, decision)

    def learn(
        self,
        samples: list[Sampled],
        decision: int,
        advantages: list[Tensor],
        references: list[Tensor],
        micro_steps: int,
    ) -> None:
        """One micro-step: the loss of one decision of the calls' images, and its gradient."""
        velocities = self.decisive_velocities(samples, decision)
        rows = zip(samples, velocities, advantages, references, strict=True)
        self.backward(
            torch.stack([self.loss(sample, decision, *others) for sample, *others in rows]).sum() / micro_steps
        )

    def loss(self, sample: Sampled, decision: int, velocity: Tensor, advantage: Tensor, reference: Tensor) -> Tensor:
        """The loss of one decision of one noise's images."""
        step, latents, following = sample.start + decision, sample.latents[decision], sample.latents[decision + 1]
        mean, std = self.sde_step(latents, velocity, step)
        bias = (mean - sample.means[decision]).square().flatten(1).mean(1) / (2 * std**2)
        ratio = ((log_prob(following, mean, std) - sample.log_probs[decision] + bias) * std).exp()
        clipped = ratio.clamp(1 - self.objective.clip_low, 1 + self.objective.clip_high)
        surrogate = torch.maximum(-advantage * ratio, -advantage * clipped).mean()
        surrogate = surrogate / (self.sigmas[step] - self.sigmas[step + 1])
        return surrogate + self.objective.kl_coef * (velocity - reference).square().mean()

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
