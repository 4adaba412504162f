"""The settings of a diffusion policy, and what it does once: it reads its base model, and writes what was trained.

Departures from the published RealGen, each of which made its on-policy ratio differ from 1 or wasted work:

- The window is drawn from the generator for each prompt and rollout, not once per rank and run.
- Latents stay float32 between steps, so the stored next latent is the one whose log-probability was taken.
- Sampling and scoring look up the same float32 timestep and run the same three functions.
- Text embeddings are kept, and all decisions of a micro-batch are scored in one call.
"""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from realgen.checks import check_at_least
from realgen.functional.flow_sde import Transition
from realgen.parallel import local_part
from realgen.policies.backbones.base import Backbone
from realgen.policies.call_rows import call_seconds, choose_rows
from realgen.policies.compiled_blocks import compile_blocks
from realgen.policies.denoising import VelocityField
from realgen.policies.forward_draws import ForwardDraws, NoWindow
from realgen.policies.lora import LoRA, adapter_config, adapter_weights
from realgen.policies.network_policy import NetworkPolicy
from realgen.policies.solvers import Euler, Solver
from realgen.policies.step_window import StepWindow
from realgen.policies.weight_copy import LaggedWeights
from realgen.policies.whole_weights import gathered_weights

DEFAULT_ROWS = 64
"""Most rows of one transformer call, unless the config says otherwise."""


class DiffusionModel(NetworkPolicy):
    """A flow-matching image model with its adapters; ``DiffusionPolicy`` samples with it and scores what it sampled.

    Args:
        backbone: The base model.
        transition: How a stochastic step is taken; ``null`` with ``draws``.
        step_window: Which steps are stochastic; ``null`` with ``draws``.
        draws: Draws of noise on the finished latents, trained in place of steps; rollouts are then the solver's alone.
        solver: What a rollout does outside the window. ``None``: Euler's steps, exact. The others are approximate. Only
            rollouts use it: ``sample``, with which validation and benchmarks draw, always takes Euler's steps.
        guided_window: Whether classifier-free guidance holds inside the window, or at the draws, too. False is
            approximate: what is trained is without it, for half the transformer rows; ``sample`` keeps it everywhere.
        num_steps: Denoising steps T of a rollout, at least 1. Fewer than ``eval_num_steps`` is approximate.
        eval_num_steps: Denoising steps of ``sample``; ``None``: ``num_steps``.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        samples_per_noise: Samples of a group that start from the same noise; must divide ``group_size``. They are one
            row until their window starts, so the ODE before it is paid for once. Exact, but such samples differ only
            by what the window adds.
        lora: Adapters to train; ``None`` trains the whole transformer.
        keep_reference: Without ``lora``, keep a frozen copy of the transformer for ``reference``. Doubles its memory.
        merge_adapters: Draw with the adapters merged into a copy of the weights. Exact but for rounding, 1e-7; only for
            whole weights in float32.
        rollout_batch_size: Most rows of one transformer call (guidance doubles them), at least ``samples_per_noise``;
            exact but for rounding. ``auto``: measured at the first call, doubled while a row's time falls by more than
            3 %; the same on all ranks, and kept in checkpoints and the run's config, from which a run repeats. In 16
            bits rollout and score must have equal rows, or the ratio's rounding grows (see ``old_log_probs``); ``auto``
            does not see to that: give a number there, or set ``old_log_probs`` to ``rescored``.
        decode_batch_size: Most latents decoded at a time.
        gradient_checkpointing: Recompute activations in the backward pass. Exact; slower by a third, far less memory.
        compile_blocks: Let PyTorch compile the transformer's blocks at their first calls, which takes minutes. Exact
            but for rounding. For GPUs and long runs; needs a C++ compiler. Z-Image and Qwen-Image gain little. On a
            CPU the embedded model's iterations take 0.84 of their CPU seconds (0.70 to 1.03), after 133 of compiling.
        prompts_per_chunk: Prompts whose groups are sampled together, at least 1; a chunk is scored while the next one
            is sampled. Exact, but calls are no larger than a chunk. ``None``: all prompts at once.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        transition: Transition | None = None,
        step_window: StepWindow | None = None,
        draws: ForwardDraws | None = None,
        solver: Solver | None = None,
        guided_window: bool = True,
        num_steps: int = 16,
        eval_num_steps: int | None = None,
        height: int = 64,
        width: int = 64,
        samples_per_noise: int = 1,
        lora: LoRA | None = None,
        keep_reference: bool = False,
        merge_adapters: bool = False,
        rollout_batch_size: int | Literal["auto"] = DEFAULT_ROWS,
        decode_batch_size: int = 64,
        gradient_checkpointing: bool = False,
        compile_blocks: bool = False,
        prompts_per_chunk: int | None = None,
    ) -> None:
        super().__init__(lora, keep_reference=keep_reference, merge_adapters=merge_adapters)
        self.backbone = backbone
        if draws is not None:
            draws.check(transition, step_window, num_steps, samples_per_noise)
        elif transition is None or step_window is None:
            raise ValueError("transition and step_window must be given, or else draws.")
        self.draws = draws
        self._lagged = {name: LaggedWeights(lag) for name, lag in (draws.lagged if draws else {}).items()}
        self.score_fields = frozenset({"velocity", "gaussian" if draws is None else "draw"})
        self.transition = transition or NoWindow.transition
        self.step_window = step_window or NoWindow()
        self.solver = solver or Euler()
        self.guided_window = guided_window
        self.num_steps = num_steps
        self.eval_num_steps = num_steps if eval_num_steps is None else eval_num_steps
        self.height, self.width = height, width
        self.samples_per_noise = samples_per_noise
        self.rollout_batch_size: int = 0 if rollout_batch_size == "auto" else rollout_batch_size
        self.measures_rows = rollout_batch_size == "auto"
        self.decode_batch_size = decode_batch_size
        self.gradient_checkpointing = gradient_checkpointing
        self.compile_blocks = compile_blocks
        self.prompts_per_chunk = prompts_per_chunk
        self._transformer_evals = 0
        self._check_arguments()

    def _check_arguments(self) -> None:
        names = ("num_steps", "eval_num_steps", "height", "width", "samples_per_noise", "decode_batch_size")
        check_at_least(1, **{name: getattr(self, name) for name in (*names, "prompts_per_chunk")})
        if not self.measures_rows and self.rollout_batch_size < self.samples_per_noise:
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

    def measure_rows(self, field: VelocityField, latents: Tensor, prompt_index: Tensor) -> int:
        """Set ``rollout_batch_size`` to the rows of a call that are fastest here, and return it.

        The arguments are those of a rollout: velocities, starting noise [rows, *latent], each row's prompt.
        """
        # Gradients and Adam's two moments are not there yet at the first call.
        trained = (local_part(each) for each in self.trainable_parameters().values() if each.grad is None)
        to_come = 3 * sum(each.numel() * each.element_size() for each in trained)
        seconds = partial(call_seconds, field, latents, prompt_index, to_come)
        self.rollout_batch_size = choose_rows(seconds, least=self.samples_per_noise)
        return self.rollout_batch_size

    def check_trainable(self, key: str) -> None:
        """Raise ValueError if the window's steps have no noise."""
        if self.draws is None and self.transition.noise_level == 0:
            raise ValueError(
                f"{key}.transition.noise_level: expected above 0, because only steps with noise are decisions that can "
                f"be trained, got {self.transition.noise_level}."
            )

    def export(self, directory: Path) -> Path:
        """Write adapters or the whole transformer for plain diffusers. Every rank must call it; the first one writes.

        Returns the directory, made if missing: for ``load_lora_weights`` or ``from_pretrained``. Adapters have alpha =
        rank and their factor in B: ComfyUI's loader and others know no alpha but one beside each layer's weights.
        """
        first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
        weights = gathered_weights(self.transformer, trained_only=self.lora is not None, keep=first)
        if first and self.lora is not None:
            config = adapter_config(self.transformer)
            factor = config["lora_alpha"] / config["r"]
            scaled = {n: w * factor if ".lora_B." in n else w for n, w in adapter_weights(weights).items()}
            self.backbone.save_adapter(directory, scaled, {**config, "lora_alpha": config["r"]})
        elif first:
            self.backbone.save_transformer(directory, weights)
        return directory


def measured_rows(policy: nn.Module) -> int:
    """Return the ``rollout_batch_size`` that the image policy has measured; 0 if it has not, or was given one."""
    return max((part.rollout_batch_size for part in measuring(policy)), default=0)


def measuring(policy: nn.Module) -> list[DiffusionModel]:
    """Return the image policies that measure their rows, also one that a language model keeps outside its modules."""
    outside = getattr(policy, "image_policy", None)
    parts = [*policy.modules(), *([] if outside is None else outside.modules())]
    return [part for part in parts if isinstance(part, DiffusionModel) and part.measures_rows]
