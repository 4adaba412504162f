"""Rewards: a rollout in, one number per sample out, higher is better."""

from realgen.rewards.aesthetic import Aesthetic
from realgen.rewards.alignment import Alignment
from realgen.rewards.base import Reward
from realgen.rewards.content_kept import ContentKept
from realgen.rewards.drawn_text import DrawnText
from realgen.rewards.function_reward import FunctionReward
from realgen.rewards.hpsv2 import HPSv2
from realgen.rewards.jpeg_size import JpegSize
from realgen.rewards.length_window import LengthWindow
from realgen.rewards.long_clip import LongClip
from realgen.rewards.pickscore import PickScore
from realgen.rewards.realism import Realism
from realgen.rewards.remote import RemoteReward
from realgen.rewards.rewrite_format import RewriteFormat
from realgen.rewards.suffix_diversity import SuffixDiversity
from realgen.rewards.vlm_rating import VlmRating
from realgen.rewards.weighted_sum import WeightedSum

__all__ = [
    "Aesthetic",
    "Alignment",
    "ContentKept",
    "DrawnText",
    "FunctionReward",
    "HPSv2",
    "JpegSize",
    "LengthWindow",
    "LongClip",
    "PickScore",
    "Realism",
    "RemoteReward",
    "Reward",
    "RewriteFormat",
    "SuffixDiversity",
    "VlmRating",
    "WeightedSum",
]
