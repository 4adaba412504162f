"""Policies: what samples and scores itself."""

from realgen.policies.base import Policy
from realgen.policies.diffusion_policy import DiffusionPolicy
from realgen.policies.lora import LoRA
from realgen.policies.prompt_policy import PromptPolicy
from realgen.policies.step_window import AllSteps, RandomWindow, SlidingWindow, StepWindow

__all__ = [
    "AllSteps",
    "DiffusionPolicy",
    "LoRA",
    "Policy",
    "PromptPolicy",
    "RandomWindow",
    "SlidingWindow",
    "StepWindow",
]
