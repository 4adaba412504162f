"""RealBench: how real a model's images look, measured against real images of the same prompts."""

from realgen.benchmark.arena.arena import Arena, ArenaPlan
from realgen.benchmark.arena.result import ArenaResult
from realgen.benchmark.arena.scoring import Resampling
from realgen.benchmark.results import ImageRow, ModelResults, Results

__all__ = ["Arena", "ArenaPlan", "ArenaResult", "ImageRow", "ModelResults", "Resampling", "Results"]
