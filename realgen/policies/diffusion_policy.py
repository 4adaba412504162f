"""A flow-matching image model as a policy: its decisions are the stochastic denoising steps inside a window.

Departures from the published RealGen, each of which made its on-policy ratio differ from 1 or wasted work:

- The window is drawn from the generator for each prompt and rollout, not once per rank and run.
- Latents stay float32 between steps, so the stored next latent is the one whose log-probability was taken.
- Sampling and scoring look up the same float32 timestep and run the same three functions.
- Text embeddings are kept, and all decisions of a micro-batch are scored in one call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from realgen.checks import check_at_least
from realgen.functional.flow_sde import Transition
from realgen.policies.backbones.base import Backbone, Schedule
from realgen.policies.base import Progress
from realgen.policies.compiled_blocks import compile_blocks
from realgen.policies.denoising import Denoising, StepPlan, VelocityField
from realgen.policies.lora import LoRA, adapter_config, adapter_weights
from realgen.policies.network_policy import NetworkPolicy
from realgen.policies.solvers import Euler, Solver
from realgen.policies.step_window import StepWindow
from realgen.policies.whole_weights import gathered_weights
from realgen.policies.window_recorder import WindowRecorder, score_decisions
from realgen.types import PolicyScore, Rollout


class DiffusionPolicy(NetworkPolicy):
    """Draws with an ODE, except inside a window of steps where it adds noise and can therefore be scored.

    Args:
        backbone: The base model.
        transition: How a stochastic step is taken.
        step_window: Which steps are stochastic.
        solver: What a rollout does outside the window. ``None``: Euler's steps, exact. The others are approximate. Only
            rollouts use it: ``sample``, with which validation and benchmarks draw, always takes Euler's steps.
        guided_window: Whether classifier-free guidance holds inside the window too. False is approximate: there the
            steps are sampled and scored without it, for half the transformer rows; ``sample`` keeps it everywhere.
        num_steps: Denoising steps T of a rollout, at least 1. Fewer than ``eval_num_steps`` is approximate.
        eval_num_steps: Denoising steps of ``sample``; ``None``: ``num_steps``.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        samples_per_noise: Samples of a group that start from the same noise; must divide ``group_size``. They are one
            row until their window starts, so the ODE before it is paid for once. Exact, but such samples differ only
            by what the window adds.
        lora: Adapters to train; ``None`` trains the whole transformer.
        keep_reference: Without ``lora``, keep a frozen copy of the transformer for ``reference``. Doubles its memory.
        rollout_batch_size: Most rows of one transformer call (guidance doubles them), at least ``samples_per_noise``.
        decode_batch_size: Most latents decoded at a time.
        gradient_checkpointing: Recompute activations in the backward pass. Exact; slower by a third, far less memory.
        compile_blocks: Let PyTorch compile the transformer's blocks at their first calls, which takes minutes. Exact
            but for rounding. For GPUs and big models; needs a C++ compiler.
        prompts_per_chunk: Prompts whose groups are sampled together, at least 1; a chunk is scored while the next one
            is sampled. Exact, but calls are no larger than a chunk. ``None``: all prompts at once.
    """

    score_fields = frozenset({"gaussian", "velocity"})

    def __init__(
        self,
        backbone: Backbone,
        *,
        transition: Transition,
        step_window: StepWindow,
        solver: Solver | None = None,
        guided_window: bool = True,
        num_steps: int = 16,
        eval_num_steps: int | None = None,
        height: int = 64,
        width: int = 64,
        samples_per_noise: int = 1,
        lora: LoRA | None = None,
        keep_reference: bool = False,
        rollout_batch_size: int = 64,
        decode_batch_size: int = 64,
        gradient_checkpointing: bool = False,
        compile_blocks: bool = False,
        prompts_per_chunk: int | None = None,
    ) -> None:
        super().__init__(lora, keep_reference=keep_reference)
        self.backbone = backbone
        self.transition = transition
        self.step_window = step_window
        self.solver = solver or Euler()
        self.guided_window = guided_window
        self.num_steps = num_steps
        self.eval_num_steps = num_steps if eval_num_steps is None else eval_num_steps
        self.height, self.width = height, width
        self.samples_per_noise = samples_per_noise
        self.rollout_batch_size = rollout_batch_size
        self.decode_batch_size = decode_batch_size
        self.gradient_checkpointing = gradient_checkpointing
        self.compile_blocks = compile_blocks
        self.prompts_per_chunk = prompts_per_chunk
        self._transformer_evals = 0
        self._check_arguments()

    def _check_arguments(self) -> None:
        names = ("num_steps", "eval_num_steps", "height", "width", "samples_per_noise", "decode_batch_size")
        check_at_least(1, **{name: getattr(self, name) for name in (*names, "prompts_per_chunk")})
        if self.rollout_batch_size < self.samples_per_noise:
            least = f"samples_per_noise={self.samples_per_noise}"
            raise ValueError(f"rollout_batch_size must be at least {least}, got {self.rollout_batch_size}.")
        if not (self.guided_window or self.backbone.guided):
            setting, off = self.backbone.cfg_setting, self.backbone.cfg_off
            raise ValueError(f"guided_window=false needs guidance outside the window: {setting} above {off:g}.")
        self.step_window.check(self.num_steps)
        self.solver.check(self.step_window, self.num_steps)

    def load(self) -> None:
        """Read the base model and attach the adapters; a second call does nothing.

        Raises:
            ValueError: If ``pretrained`` holds no such model, or it cannot draw this size.
            ValueError: If the window may cover a step to which the transition adds no noise.
            ValueError: If the solver's type is no narrower than the transformer's.
            ValueError: If blocks are to be compiled on a machine without a compiler.
        """
        if hasattr(self, "transformer"):
            return
        self.backbone.load()
        self.latent_shape = self.backbone.latent_shape(self.height, self.width)
        schedule = self.backbone.schedule(self.num_steps, self.height, self.width)
        self.step_window.check_noise(self.transition, schedule.sigmas)
        transformer: Any = self.backbone.transformer
        self.solver.check_precision(next(transformer.parameters()).dtype)
        self.attach(transformer, self.backbone.lora_targets)
        if self.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        if self.compile_blocks:
            compile_blocks(transformer, self.backbone.blocks(), self._frozen_start)
        self.transformer = transformer.eval()

    @property
    def network(self) -> Any:
        """The transformer."""
        return self.transformer

    @property
    def transformer_evals(self) -> int:
        """Rows that the transformer has been called with so far, those for guidance included."""
        return self._transformer_evals

    def check_trainable(self, key: str) -> None:
        """Raise ValueError if the window's steps have no noise."""
        if self.transition.noise_level == 0:
            raise ValueError(
                f"{key}.transition.noise_level: expected above 0, because only steps with noise are decisions that can "
                f"be trained, got {self.transition.noise_level}."
            )

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

        The generator gives, in this order: the windows' starts, the starting noise, the noise of the decisions. All are
        drawn before the first step, prompt by prompt, so chunk sizes change nothing but rounding.

        Args:
            prompts: P texts.
            group_size: G, a multiple of ``samples_per_noise``.
            generator: All randomness; on the CPU the noise is the same whatever device the policy is on.
            iteration: Read by the step window.
            progress: Called after each denoising step.

        Yields:
            For each chunk its images, the window's latents and the score of its decisions.
        """
        self.check_group_size(group_size)
        starts = self.step_window.sample(len(prompts), self.num_steps, iteration=iteration, generator=generator)
        first, noise = self._draw_noise(len(prompts), group_size, generator)
        starts, size = starts.to(self.device), self.prompts_per_chunk or len(prompts)
        parts = (starts.split(size), first.split(size * len(first) // len(prompts)), noise.split(size * group_size))
        for index, (own_starts, own_first, own_noise) in enumerate(zip(*parts, strict=True)):
            recorder = WindowRecorder(own_starts, own_noise.to(self._latent_dtype), group_size, self.samples_per_noise)
            report = _reporter(progress, "rollout", index, len(parts[0]))
            yield self._sample_chunk(prompts[index * size :][:size], own_first, recorder, report)

    @torch.no_grad()  # not on the generator: between two chunks its caller may need gradients
    def _sample_chunk(
        self, prompts: Sequence[str], first: Tensor, recorder: WindowRecorder, report: Callable[[int, int], None]
    ) -> Rollout:
        latents = self._denoise(prompts, first, self.num_steps, report, recorder)
        return Rollout(
            prompts=tuple(prompts),
            group_size=recorder.group_size,
            images=self._decode(latents),
            sampled=recorder.score(),
            mask=recorder.std > 0,
            policy_state={"latents": recorder.latents, "step_indices": recorder.step_indices},
        )

    def score(self, rollout: Rollout, rows: Int[Tensor, " rows"]) -> PolicyScore:
        """Score the decisions of some rows, all in one batch of rows times decisions.

        Args:
            rollout: What ``rollout`` gave.
            rows: Which of its B rows, in any order.

        Returns:
            Log-probabilities, Gaussians and velocities, with gradient if it is enabled.
        """
        self.backbone.to(self.device)
        path = rollout.policy_state["latents"][rows].to(self.device)
        step_indices = rollout.policy_state["step_indices"][rows].to(self.device)
        steps = step_indices.flatten()
        owners, owner = torch.unique(rows.cpu() // rollout.group_size, return_inverse=True)
        conditioning = self.backbone.encode_prompts([rollout.prompts[p] for p in owners.tolist()])
        field = VelocityField(self.backbone, self._schedule(self.num_steps), conditioning)
        owner = owner.to(self.device).repeat_interleave(step_indices.shape[1])
        latents, sigmas = path[:, :-1].flatten(0, 1), field.schedule.sigmas
        calls = math.ceil(len(latents) / self.rollout_batch_size)
        velocity = field(latents, steps, owner, calls=calls, guided=self.guided_window)
        self._transformer_evals += field.evals
        mean, std = self.transition.step(latents, velocity, sigmas[steps], sigmas[steps + 1], sigmas[1].item())
        step_size = (sigmas[steps] - sigmas[steps + 1]).to(std.dtype)
        shape = step_indices.shape  # [b, S]
        return score_decisions(
            path, mean.unflatten(0, shape), std.view(shape), step_size.view(shape), velocity.unflatten(0, shape)
        )

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

    def export(self, directory: Path) -> Path:
        """Write what was trained, for plain diffusers. Every rank must call it; the first one writes.

        Args:
            directory: Made if missing.

        Returns:
            The directory, for ``load_lora_weights`` or ``from_pretrained``.
        """
        adapters = self.lora is not None
        weights = gathered_weights(self.transformer, trained_only=adapters)
        first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
        if first and adapters:
            self.backbone.save_adapter(directory, adapter_weights(weights), adapter_config(self.transformer))
        elif first:
            self.backbone.save_transformer(directory, weights)
        return directory

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
        field = VelocityField(self.backbone, self._schedule(num_steps), self.backbone.encode_prompts(prompts))
        plan = StepPlan(self.transition, self.step_window, self.solver, self.guided_window)
        denoising = Denoising(field, plan, self.rollout_batch_size, report, recorder)
        owner = torch.arange(len(prompts), device=self.device).repeat_interleave(len(latents) // len(prompts))
        finished = denoising.run(latents.to(self.device, self._latent_dtype), owner)
        self._transformer_evals += field.evals
        return finished

    @property
    def _latent_dtype(self) -> torch.dtype:
        """Float32 unless the transformer is in float64."""
        return torch.promote_types(next(self.parameters()).dtype, torch.float32)

    def _schedule(self, num_steps: int) -> Schedule:
        schedule = self.backbone.schedule(num_steps, self.height, self.width)
        return Schedule(*(part.to(self.device) for part in schedule))

    def _decode(self, latents: Tensor) -> Tensor:
        return torch.cat([self.backbone.decode(chunk) for chunk in latents.split(self.decode_batch_size)])


def _reporter(progress: Progress | None, phase: str, chunk: int = 0, chunks: int = 1) -> Callable[[int, int], None]:
    """Report the steps of one chunk as a share of all chunks' steps."""

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(phase, chunk * total + done, chunks * total)

    return report
