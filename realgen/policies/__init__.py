"""Policies: what samples and scores itself."""

from realgen.policies.base import Policy
from realgen.policies.diffusion_policy import DiffusionPolicy
from realgen.policies.forward_draws import ForwardDraws
from realgen.policies.joint_policy import JointPolicy
from realgen.policies.lora import LoRA
from realgen.policies.prompt_policy import PromptPolicy
from realgen.policies.random_window import RandomWindow
from realgen.policies.rewritten_policy import RewrittenPolicy
from realgen.policies.sliding_window import SlidingWindow
from realgen.policies.step_window import AllSteps, StepWindow
from realgen.policies.text_engine import TextEngine, TransformersEngine
from realgen.policies.vllm_engine import VLLMEngine
from realgen.policies.weight_copy import Lag

__all__ = [
    "AllSteps",
    "DiffusionPolicy",
    "ForwardDraws",
    "JointPolicy",
    "Lag",
    "LoRA",
    "Policy",
    "PromptPolicy",
    "RandomWindow",
    "RewrittenPolicy",
    "SlidingWindow",
    "StepWindow",
    "TextEngine",
    "TransformersEngine",
    "VLLMEngine",
]
