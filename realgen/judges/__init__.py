"""Judges of the arena: which of two images is the more realistic, and whether one is real."""

from realgen.judges.base import ArenaJudge, Choice, IdentityChangedError, Verdict
from realgen.judges.detector_judge import DetectorJudge
from realgen.judges.openai_judge import OpenAIJudge
from realgen.judges.vlm_judge import VlmJudge

__all__ = ["ArenaJudge", "Choice", "DetectorJudge", "IdentityChangedError", "OpenAIJudge", "Verdict", "VlmJudge"]
