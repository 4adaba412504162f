"""Pure tensor functions: no modules, no files, no state. Source and equation stand in each docstring."""

from realgen.functional.flow_sde import CPS, DanceSDE, FlowSDE, Transition

__all__ = ["CPS", "DanceSDE", "FlowSDE", "Transition"]
