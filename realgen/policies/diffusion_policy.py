"""A flow-matching image model as a policy: it decides stochastic denoising steps inside a window, or draws of noise."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from realgen.parallel import send
from realgen.policies.backbones.base import Schedule
from realgen.policies.base import Progress
from realgen.policies.denoising import Denoising, VelocityField
from realgen.policies.diffusion_model import DiffusionModel
from realgen.policies.forward_draws import DrawnStates
from realgen.policies.weight_copy import LaggedWeights
from realgen.policies.window_recorder import WindowRecorder, WindowStates
from realgen.types import PolicyScore, Rollout


class DiffusionPolicy(DiffusionModel):
    """Draws with an ODE, and decides steps inside a window, or draws; its settings are those of ``DiffusionModel``."""

    @property
    def network(self) -> Any:
        """The transformer."""
        return self.transformer

    @property
    def transformer_evals(self) -> int:
        """Rows that the transformer has been called with so far, those for guidance included."""
        return self._transformer_evals

    @property
    def lagged(self) -> Mapping[str, LaggedWeights]:
        """Weights that lag behind the trained ones, by name."""
        return self._lagged

    @property
    def sampler(self) -> str | None:
        """The lagged weights that rollouts use; ``None``: the trained ones."""
        return None if self.draws is None else self.draws.sampler

    def check_group_size(self, group_size: int) -> None:
        """Raise ValueError for a group size that ``samples_per_noise`` does not divide."""
        super().check_group_size(group_size)
        if group_size % self.samples_per_noise:
            raise ValueError(f"samples_per_noise={self.samples_per_noise} must divide group_size, got {group_size}.")

    def rollout_chunks(
        self,
        prompts: Sequence[str],
        group_size: int,
        *,
        generator: torch.Generator,
        iteration: int = 0,
        progress: Progress | None = None,
    ) -> Iterator[Rollout]:
        """Sample ``group_size`` images of each prompt, ``prompts_per_chunk`` prompts at a time.

        The generator gives, in this order: the windows' starts, the starting noise, the noise of the decisions, all
        before the first step; then the draws. All go prompt by prompt, so chunk sizes change nothing but rounding. On
        the CPU it gives the same noise whatever device the policy is on. The step window reads ``iteration``.
        """
        self.check_group_size(group_size)
        if self.backbone.frozen_on_demand:  # the encoders come once for all chunks
            self.backbone.to(self.device).encode_prompts(prompts)
        starts = self.step_window.sample(len(prompts), self.num_steps, iteration=iteration, generator=generator)
        first, noise = self._draw_noise(len(prompts), group_size, generator)
        size, device = self.prompts_per_chunk or len(prompts), self.device
        parts = (starts.split(size), first.split(size * len(first) // len(prompts)), noise.split(size * group_size))
        for index, (own_starts, own_first, own_noise) in enumerate(zip(*parts, strict=True)):
            own_noise = own_noise.to(self._latent_dtype)
            recorder = WindowRecorder(own_starts, own_noise, group_size, self.samples_per_noise, device)
            report = _reporter(progress, "rollout", index, len(parts[0]))
            with torch.no_grad(), self.with_lagged(self.sampler):  # not around the yield: its caller may need gradients
                own_prompts = prompts[index * size :][:size]
                latents = self._denoise(own_prompts, own_first, self.num_steps, report, recorder)
                schedule = self.schedule(self.num_steps)
                if self.draws is None:
                    decided = recorder.record(self.transition.mean_std(schedule.sigmas))
                else:
                    decided = self.draws.record(latents, group_size, schedule, generator)
                chunk = Rollout(tuple(own_prompts), group_size, self._decode(latents), **decided)
            yield chunk

    def score(self, rollout: Rollout, rows: Int[Tensor, " rows"]) -> PolicyScore:
        """Score the decisions of some rows, in any order, all in one batch of rows times decisions."""
        self.backbone.to(self.device)
        rows = rows.cpu()
        state = {name: part[rows] for name, part in rollout.policy_state.items()}
        used_prompts, prompt_index = torch.unique(rows // rollout.group_size, return_inverse=True)
        conditioning = self.backbone.encode_prompts([rollout.prompts[p] for p in used_prompts.tolist()])
        schedule = self.schedule(self.num_steps)
        states: WindowStates | DrawnStates = (
            DrawnStates(state, schedule, self.draws.error if self.draws else "uniform")
            if rollout.sampled is None  # photographs too, of a policy that decides steps
            else WindowStates(state, schedule, self.transition)
        )
        field = VelocityField(self.backbone, states.schedule, conditioning)
        latents, shape = states.latents.flatten(0, 1), states.latents.shape[:2]  # [b, S]
        prompt_index = prompt_index.repeat_interleave(shape[1])
        calls = math.ceil(len(latents) / self.rollout_batch_size)
        velocity = field(latents, states.steps, prompt_index, calls=calls, guided=self.guided_window)
        self._transformer_evals += field.evals
        return states.score(velocity.unflatten(0, shape))

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside this context the policy is its frozen start; see ``NetworkPolicy``."""
        with super().reference():
            if self._frozen_start:
                self.backbone.transformer = self._frozen_start[0].to(self.device)
            try:
                yield
            finally:
                self.backbone.transformer = self.transformer

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[str], seeds: Sequence[int], *, progress: Progress | None = None
    ) -> Float[Tensor, "rows 3 height width"]:
        """Draw one image per (prompt, seed) with the ODE, as the stock pipeline does with one CPU generator per image.

        Raises:
            ValueError: If there are not as many seeds as prompts.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"seeds must be as many as prompts, {len(prompts)}, got {len(seeds)}.")
        sources = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = [torch.randn(self.latent_shape, generator=source, dtype=torch.float32) for source in sources]
        report = _reporter(progress, "sample")
        return self._decode(self._denoise(prompts, torch.stack(noise), self.eval_num_steps, report))

    def _draw_noise(self, num_prompts: int, group_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the starting noise [P * G / samples_per_noise, *latent] and the decisions' [B, S, *latent]."""
        num_rows, decisions = num_prompts * group_size, self.step_window.decisions(self.num_steps)
        how: dict[str, Any] = {"generator": generator, "device": generator.device, "dtype": torch.float32}
        first = torch.randn(num_rows // self.samples_per_noise, *self.latent_shape, **how)
        return first, torch.randn(num_rows, decisions, *self.latent_shape, **how)

    def _denoise(
        self,
        prompts: Sequence[str],
        latents: Tensor,
        num_steps: int,
        report: Callable[[int, int], None],
        recorder: WindowRecorder | None = None,
    ) -> Tensor:
        """Go from noise to finished latents; prompt-major, as many rows for each prompt."""
        self.backbone.to(self.device)
        field = VelocityField(self.backbone, self.schedule(num_steps), self.backbone.encode_prompts(prompts))
        prompt_index = torch.arange(len(prompts)).repeat_interleave(len(latents) // len(prompts))
        with self.sampling():
            rows = self.rollout_batch_size or self.measure_rows(field, latents, prompt_index)
            denoising = Denoising(field, self, rows, report, recorder)
            finished = denoising.run(latents.to(self.device, self._latent_dtype), prompt_index)
        self._transformer_evals += field.evals
        return finished

    @property
    def _latent_dtype(self) -> torch.dtype:
        """Float32 unless the transformer is in float64."""
        return torch.promote_types(next(self.parameters()).dtype, torch.float32)

    def schedule(self, num_steps: int) -> Schedule:
        """Return the noise levels of so many steps, on the policy's device."""
        schedule = self.backbone.schedule(num_steps, self.height, self.width)
        return Schedule(*(send(part, self.device) for part in schedule))

    def _decode(self, latents: Tensor) -> Tensor:
        return torch.cat([self.backbone.decode(chunk) for chunk in latents.split(self.decode_batch_size)])


def _reporter(progress: Progress | None, phase: str, chunk: int = 0, chunks: int = 1) -> Callable[[int, int], None]:
    """Report the steps of one chunk as a share of all chunks' steps."""

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(phase, chunk * total + done, chunks * total)

    return report
