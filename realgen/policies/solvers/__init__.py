"""What a rollout does outside its window: Euler's steps, or something cheaper that says it is approximate."""

from realgen.policies.solvers.base import Euler, Solver
from realgen.policies.solvers.cached_velocity import CachedVelocity
from realgen.policies.solvers.float8 import Float8
from realgen.policies.solvers.higher_order_tail import HigherOrderTail
from realgen.policies.solvers.low_precision import LowPrecision

__all__ = ["CachedVelocity", "Euler", "Float8", "HigherOrderTail", "LowPrecision", "Solver"]
