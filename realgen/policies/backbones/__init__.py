"""Base models, one per file."""

from realgen.policies.backbones.base import Backbone, Schedule
from realgen.policies.backbones.sd3 import SD3

__all__ = ["SD3", "Backbone", "Schedule"]
