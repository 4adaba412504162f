"""Metrics at validation that are never rewards; ``torchmetrics.Metric`` with detectors and encoders injected."""

from realgen.metrics.base import ImageMetric, RealComparison
from realgen.metrics.color_distance import ColorDistance, ContrastDistance
from realgen.metrics.detector_quality import DetectorQuality, Quality
from realgen.metrics.diversity import Diversity
from realgen.metrics.encoder import Encoder, EncoderConfig, TimmEncoder, save_encoder
from realgen.metrics.encoder_probe import EncoderProbe
from realgen.metrics.fid import FID
from realgen.metrics.held_out_detector import DetectorAUROC, DetectorScore, JudgedReal, MeanRealism
from realgen.metrics.image_scores import DetectorScoring, ImageScores
from realgen.metrics.imagenet import ImageNetEncoder
from realgen.metrics.kid import KID
from realgen.metrics.spectrum import GridEnergy, SpectrumDistance

__all__ = [
    "FID",
    "KID",
    "ColorDistance",
    "ContrastDistance",
    "DetectorAUROC",
    "DetectorQuality",
    "DetectorScore",
    "DetectorScoring",
    "Diversity",
    "Encoder",
    "EncoderConfig",
    "EncoderProbe",
    "GridEnergy",
    "ImageMetric",
    "ImageNetEncoder",
    "ImageScores",
    "JudgedReal",
    "MeanRealism",
    "Quality",
    "RealComparison",
    "SpectrumDistance",
    "TimmEncoder",
    "save_encoder",
]
