"""Base models, one per file."""

from realgen.policies.backbones.base import Backbone, Schedule
from realgen.policies.backbones.chroma import Chroma
from realgen.policies.backbones.ernie_image import ErnieImage
from realgen.policies.backbones.flux import Flux
from realgen.policies.backbones.flux2 import Flux2
from realgen.policies.backbones.flux2_klein import Flux2Klein
from realgen.policies.backbones.hidream import HiDream
from realgen.policies.backbones.krea2 import Krea2
from realgen.policies.backbones.lumina2 import Lumina2
from realgen.policies.backbones.pipeline import PipelineBackbone
from realgen.policies.backbones.qwen_image import QwenImage
from realgen.policies.backbones.sd3 import SD3
from realgen.policies.backbones.z_image import ZImage

__all__ = [
    "SD3",
    "Backbone",
    "Chroma",
    "ErnieImage",
    "Flux",
    "Flux2",
    "Flux2Klein",
    "HiDream",
    "Krea2",
    "Lumina2",
    "PipelineBackbone",
    "QwenImage",
    "Schedule",
    "ZImage",
]
