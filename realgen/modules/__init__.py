"""The floor that knows Lightning: one GRPO iteration for every policy, and the training of a detector."""

from realgen.modules.base import TrainableModule
from realgen.modules.detector_training import DetectorTraining
from realgen.modules.grpo_module import GRPOModule
from realgen.modules.joint_grpo_module import JointGRPOModule
from realgen.modules.on_policy import OnPolicyError

__all__ = ["DetectorTraining", "GRPOModule", "JointGRPOModule", "OnPolicyError", "TrainableModule"]
