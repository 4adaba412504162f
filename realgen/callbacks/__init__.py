"""Hooks around the iterations: averages, progress, images, checkpoints, the summary."""

from realgen.callbacks.best_checkpoint import BestCheckpoint
from realgen.callbacks.detector_report import DetectorReport
from realgen.callbacks.ema import EMA
from realgen.callbacks.export import Export
from realgen.callbacks.last_checkpoint import LastCheckpoint
from realgen.callbacks.learning_signal import LearningSignal
from realgen.callbacks.out_of_memory import OutOfMemory
from realgen.callbacks.preemption import Preemption
from realgen.callbacks.progress import IterationProgress
from realgen.callbacks.realbench import RealBenchScoring
from realgen.callbacks.report import Report
from realgen.callbacks.reward_watch import RewardWatch
from realgen.callbacks.rewrite_table import RewriteTable
from realgen.callbacks.sample_logger import SampleLogger
from realgen.callbacks.summary import Summary
from realgen.callbacks.validation_rows import ValidationRows

__all__ = [
    "EMA",
    "BestCheckpoint",
    "DetectorReport",
    "Export",
    "IterationProgress",
    "LastCheckpoint",
    "LearningSignal",
    "OutOfMemory",
    "Preemption",
    "RealBenchScoring",
    "Report",
    "RewardWatch",
    "RewriteTable",
    "SampleLogger",
    "Summary",
    "ValidationRows",
]
