"""GRPO variants, one per file: rewards to advantages, scored decisions to a loss."""

from realgen.objectives.base import Objective
from realgen.objectives.grpo import GRPO
from realgen.objectives.grpo_guard import GRPOGuard

__all__ = ["GRPO", "GRPOGuard", "Objective"]
