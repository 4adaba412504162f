"""Pure tensor functions: no modules, no files, no state. Source and equation stand in each docstring."""

from realgen.functional.cps import CPS
from realgen.functional.dance_sde import DanceSDE
from realgen.functional.flow_sde import FlowSDE, Transition

__all__ = ["CPS", "DanceSDE", "FlowSDE", "Transition"]
