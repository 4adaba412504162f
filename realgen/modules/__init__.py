"""The floor that knows Lightning: one GRPO iteration, and what each kind of policy adds to it."""

from realgen.modules.diffusion_grpo import DiffusionGRPO
from realgen.modules.grpo_module import GRPOModule
from realgen.modules.on_policy import OnPolicyError

__all__ = ["DiffusionGRPO", "GRPOModule", "OnPolicyError"]
