"""The floor that knows Lightning: one GRPO iteration, what each kind of policy adds to it; a detector's training."""

from realgen.modules.base import Training
from realgen.modules.detector_training import DetectorTraining
from realgen.modules.diffusion_grpo import DiffusionGRPO
from realgen.modules.grpo_module import GRPOModule
from realgen.modules.joint_grpo import JointGRPO
from realgen.modules.on_policy import OnPolicyError
from realgen.modules.prompt_grpo import PromptGRPO

__all__ = ["DetectorTraining", "DiffusionGRPO", "GRPOModule", "JointGRPO", "OnPolicyError", "PromptGRPO", "Training"]
