"""GRPO variants, one per file: rewards to advantages, scored decisions to a loss."""

from realgen.objectives.base import Objective
from realgen.objectives.grpo import GRPO
from realgen.objectives.grpo_guard import GRPOGuard
from realgen.objectives.gspo import GSPO

__all__ = ["GRPO", "GSPO", "GRPOGuard", "Objective"]
