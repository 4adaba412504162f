"""What a recipe costs, from its architecture alone: evaluations, FLOPs, memory and time, without any weights."""

from realgen.planning.forecast import GPU, GPUS
from realgen.planning.plan import Plan, make_plan
from realgen.planning.recipe import Recipe, Sharding, sharding_of

__all__ = ["GPU", "GPUS", "Plan", "Recipe", "Sharding", "make_plan", "sharding_of"]
