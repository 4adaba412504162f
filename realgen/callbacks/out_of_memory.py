"""Help when memory runs out: the phase in which it did, and settings that lower its need."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from realgen.callbacks.run_context import iteration_of
from realgen.checks import first_line
from realgen.parallel import is_sharded
from realgen.phases import phase_of
from realgen.policies.base import Policy

NUM_SETTINGS = 3
HOST_SIGNS = ("can't allocate memory", "not enough memory")
"""Messages of PyTorch's CPU allocator."""

START = "start"
"""Outside of all phases, where weights are moved to their device."""

SETTINGS = {
    "text encoding": ("frozen_on_demand", "backbone.dtype", "strategy", "backbone.max_sequence_length", "height"),
    "image encoding": ("frozen_on_demand", "strategy", "height"),
    "decoding": ("decode_batch_size", "frozen_on_demand", "prompts_per_chunk", "strategy", "height"),
    "reward": ("prompts_per_chunk", "frozen_on_demand", "strategy", "reward.batch_size", "height"),
    "reference": ("microbatch_size", "rollout_batch_size", "strategy", "score_batch_size", "height"),
    "validation": ("rollout_batch_size", "decode_batch_size", "strategy", "score_batch_size", "frozen_on_demand"),
    "rollout": ("rollout_batch_size", "prompts_per_chunk", "strategy", "group_size", "height"),
    "update": ("microbatch_size", "gradient_checkpointing", "strategy", "rollout_batch_size", "score_batch_size"),
    START: ("strategy", "backbone.dtype", "dtype", "frozen_on_demand", "lora"),
}
"""Settings that lower a phase's memory, the exact and cheap ones first; see ``_suggestion``."""
ALWAYS = ("height", "group_size", "lora")
"""Settings that follow when those are used up."""


class OutOfMemory(Callback):
    """Replace the message of an out-of-memory error by its phase and three settings that lower the need.

    The error and its traceback stay; the allocator's own message becomes a note.
    """

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Rewrite the message of an out-of-memory error; leave every other error unchanged."""
        policy = getattr(pl_module, "policy", None)
        if ran_out_of_memory(exception) and isinstance(policy, Policy):
            phase = phase_of(exception) or START
            names = dict.fromkeys((*SETTINGS[phase], *ALWAYS))
            found = [text for name in names if (text := _suggestion(name, trainer, pl_module, policy)) is not None]
            cause = first_line(exception).split(". GPU")[0].rstrip(".")
            where = f"in the {phase} of iteration {iteration_of(pl_module)}"
            place = "while the policy was set up" if phase == START else where
            told = f"out of memory {place} ({cause}). Any of these lowers it: {'; '.join(found[:NUM_SETTINGS])}."
            exception.add_note(str(exception))
            exception.args = (told,)


def ran_out_of_memory(exception: BaseException) -> bool:
    """Return whether an error is for lack of memory, on a GPU or on the host."""
    if isinstance(exception, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(exception, RuntimeError) and any(sign in str(exception) for sign in HOST_SIGNS)


def _suggestion(name: str, trainer: Trainer, module: LightningModule, policy: Policy) -> str | None:
    """Return the setting as on the command line; None if it cannot be lowered further."""
    in_module = name in ("microbatch_size", "group_size", "frozen_on_demand")
    key, value = f"model.{name}" if in_module else f"model.policy.{name}", _read(module if in_module else policy, name)
    match name:
        case "strategy" if is_sharded(policy):
            resident = getattr(trainer.strategy, "cpu_offload", None) is False
            return "trainer.strategy.cpu_offload=true" if resident else None
        case "strategy":
            return (
                f"trainer.strategy=configs/strategies/fsdp2.yaml{'' if trainer.world_size > 1 else ' on several GPUs'}"
            )
        case "reward.batch_size":
            return "a smaller batch_size of the detectors under model.reward"
        case "frozen_on_demand" | "gradient_checkpointing":
            return f"{key}=true" if value is False else None
        case "backbone.dtype" | "dtype":
            return f"{key}=bfloat16" if value == torch.float32 else None
        case "lora" if (rank := getattr(value, "rank", None)) is not None:
            return f"{key}.rank={rank // 2} (now {rank})" if rank > 1 else None
        case "lora":
            return "adapters in place of the whole model (model.policy.lora)" if hasattr(policy, "lora") else None
        case "prompts_per_chunk":
            now = "all at once" if value is None else value
            return f"{key}=1 (now {now})" if hasattr(policy, name) and value != 1 else None
        case "height":
            sizes = f"now {value} x {_read(policy, 'width')}"
            return None if value is None else f"smaller images ({key} and width, {sizes})"
    shared = getattr(policy, "samples_per_noise", 1) if name == "rollout_batch_size" else 1
    least = 2 if name == "group_size" else shared
    return f"{key}={max(value // 2, least)} (now {value})" if isinstance(value, int) and value > least else None


def _read(owner: Any, path: str) -> Any:
    for name in path.split("."):
        owner = getattr(owner, name, None)
    return owner
