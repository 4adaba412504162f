"""Configs of the detectors' networks, as ``config.json`` of a checkpoint holds them."""

from dataclasses import dataclass
from typing import Literal, get_args

from realgen.functional.network_input import Preprocess

RouterInput = Literal["patch_embeddings", "frozen_tower"]
ExpertType = Literal["svd", "lora"]


@dataclass(frozen=True)
class VisionConfig:
    """Config of a CLIP vision transformer, with the names of transformers' ``CLIPVisionConfig``; ViT-L/14 by default.

    The activation of the MLP is the quick GELU of OpenAI's CLIP.
    """

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    patch_size: int = 14
    image_size: int = 224
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads, got {self.hidden_size} and "
                f"{self.num_attention_heads}."
            )
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size must be a multiple of patch_size, got {self.image_size} and {self.patch_size}."
            )
        rank = getattr(self, "rank", 1)  # of a low-rank part of square weights
        if not 1 <= rank < self.hidden_size:
            raise ValueError(f"rank must be between 1 and {self.hidden_size - 1}, got {rank}.")


@dataclass(frozen=True)
class DinoConfig(VisionConfig):
    """Config of a DINOv3 vision transformer, with the names of ``DINOv3ViTConfig``; ViT-L/16 by default."""

    patch_size: int = 16
    hidden_act: str = "gelu"
    num_register_tokens: int = 4
    rope_theta: float = 100.0
    use_gated_mlp: bool = False
    query_bias: bool = True
    key_bias: bool = False
    value_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        width = self.hidden_size // self.num_attention_heads
        if width % 4:
            raise ValueError(f"a head must have a multiple of 4 channels, for two axes in pairs, got {width}.")


@dataclass(frozen=True)
class EffortConfig(VisionConfig):
    """Config of an Effort network; the defaults are the published ones (CLIP ViT-L/14, 224 pixels, rank 1)."""

    rank: int = 1
    antialias: bool = True
    """Effort's own script resizes by OpenCV's plain bilinear rule, for which this is False."""


@dataclass(frozen=True)
class RoutedExperts:
    """Experts inside a vision tower and their router; the defaults are those of RealGen's first release.

    ``num_experts``, ``rank`` of each, ``top_k`` of them per image, chosen by a router with ``router_hidden`` hidden
    units. ``hybrid``: the last expert (artifacts) is always on, and the router chooses from the others.
    ``router_input``: the mean patch embedding before the first layer norm, or the pooled output of a second, frozen
    tower. ``expert_type``: ``svd`` retrains the smallest singular values, ``lora`` adds adapters that start at zero.
    ``dropout`` of the experts' inputs, in training only. ``preprocess``: ``v1`` resizes images by way of 512 pixels,
    ``v2`` does not.
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


@dataclass(frozen=True)
class OmniAIDConfig(RoutedExperts, VisionConfig):
    """Config of an OmniAID network on CLIP.

    The defaults are those of the detector in RealGen's first release (CLIP ViT-L/14 at 336 pixels), but for
    ``preprocess``: those weights saw images resized by way of 512 pixels (``v1``).
    """

    image_size: int = 336

    def __post_init__(self) -> None:
        VisionConfig.__post_init__(self)
        RoutedExperts.__post_init__(self)


@dataclass(frozen=True)
class OmniAIDDinoConfig(RoutedExperts, DinoConfig):
    """Config of an OmniAID network on DINOv3; the defaults are the published ones (ViT-L/16 at 448 pixels)."""

    image_size: int = 448
    router_input: str = "frozen_tower"

    def __post_init__(self) -> None:
        DinoConfig.__post_init__(self)
        RoutedExperts.__post_init__(self)
