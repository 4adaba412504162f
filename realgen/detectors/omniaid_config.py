"""The measures of OmniAID's networks: their towers, and the experts inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from realgen.detectors.clip_vision import ClipTower
from realgen.detectors.dinov3 import DinoTower
from realgen.detectors.pixels import Preprocess

RouterInput = Literal["patch_embeddings", "frozen_tower"]
ExpertType = Literal["svd", "lora"]


@dataclass(frozen=True)
class RoutedExperts:
    """Experts inside a vision tower, and what chooses between them; the defaults are those of RealGen's first release.

    ``num_experts``, ``rank`` of each, ``top_k`` of them per image, chosen by a router with ``router_hidden`` hidden
    units. ``hybrid``: the last expert (artifacts) is always on, and the router chooses from the others.
    ``router_input``: what the router sees, the mean patch embedding or the pooled output of a second, frozen tower.
    ``expert_type``: ``svd`` replaces the smallest singular values, ``lora`` adds adapters. ``dropout`` of the experts'
    inputs, in training only. ``preprocess``: ``v1`` resizes images by way of 512 pixels, ``v2`` does not.
    """

    num_experts: int = 6
    rank: int = 1
    top_k: int = 2
    router_hidden: int = 256
    hybrid: bool = True
    router_input: str = "patch_embeddings"
    expert_type: str = "svd"
    dropout: float = 0.0
    preprocess: str = "v2"

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.num_routed:
            raise ValueError(
                f"top_k must be between 1 and the {self.num_routed} routed experts (num_experts {self.num_experts}, "
                f"hybrid {self.hybrid}), got {self.top_k}."
            )
        for name, kind in (("router_input", RouterInput), ("expert_type", ExpertType), ("preprocess", Preprocess)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got {getattr(self, name)!r}.")

    @property
    def num_routed(self) -> int:
        """Experts the router chooses from; in hybrid mode the last expert (artifacts) is always on."""
        return self.num_experts - 1 if self.hybrid else self.num_experts

    def check_rank(self, width: int) -> None:
        """Refuse a rank that leaves nothing of a map.

        Raises:
            ValueError: If the rank is not between 1 and ``width`` - 1.
        """
        if not 1 <= self.rank < width:
            raise ValueError(f"rank must be between 1 and {width - 1}, got {self.rank}.")


@dataclass(frozen=True)
class OmniAIDConfig(RoutedExperts, ClipTower):
    """Measures of an OmniAID network on CLIP.

    The defaults are those of the detector in RealGen's first release (CLIP ViT-L/14 at 336 pixels), but for
    ``preprocess``: those weights saw images resized by way of 512 pixels (``v1``).
    """

    image_size: int = 336

    def __post_init__(self) -> None:
        ClipTower.__post_init__(self)
        self.check_rank(self.hidden_size)
        RoutedExperts.__post_init__(self)


@dataclass(frozen=True)
class OmniAIDDinoConfig(RoutedExperts, DinoTower):
    """Measures of an OmniAID network on DINOv3; the defaults are the published ones (ViT-L/16 at 448 pixels)."""

    image_size: int = 448
    router_input: str = "frozen_tower"

    def __post_init__(self) -> None:
        DinoTower.__post_init__(self)
        self.check_rank(self.hidden_size)
        RoutedExperts.__post_init__(self)
