"""Effort, a held-out detector for evaluation: a CLIP tower of which only the smallest singular values are retrained.

From ``YZY-stack/Effort-AIGI-Detection``. Deviations from the published code: the frozen main weights are parameters
without gradient rather than buffers (same names on disk); ``U_r``, ``S_r``, ``V_r``, which only training uses, are not
stored.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from realgen.detectors.base import DetectorNetwork
from realgen.detectors.checkpoint import CheckpointDetector
from realgen.detectors.configs import EffortConfig, VisionConfig
from realgen.detectors.svd_experts import split_weight
from realgen.detectors.vision_towers import PROJECTIONS, build_tower, clip_config, merge_quick_gelu, tower_state_dict
from realgen.functional.network_input import tower_pixels


class SVDResidualLinear(nn.Module):
    """y = (W_main + U diag(S) V) x + bias, of which only U, S, V, of the given rank, are trained."""

    def __init__(self, features: int, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.weight_main = nn.Parameter(torch.zeros(features, features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.U_residual = nn.Parameter(torch.zeros(features, rank))
        self.S_residual = nn.Parameter(torch.zeros(rank))
        self.V_residual = nn.Parameter(torch.zeros(rank, features))

    @torch.no_grad()
    def copy_from(self, weight: Float[Tensor, "out in"], bias: Float[Tensor, " out"]) -> None:
        """Copy a trained linear map, which stays the same."""
        split = split_weight(weight, self.rank)
        for parameter, part in (
            (self.weight_main, split.main),
            (self.bias, bias),
            (self.U_residual, split.u),
            (self.S_residual, split.s),
            (self.V_residual, split.v),
        ):
            parameter.copy_(part)

    def forward(self, hidden: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
        """Map each token."""
        weight = self.weight_main + self.U_residual * self.S_residual @ self.V_residual
        return F.linear(hidden, weight, self.bias)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return the same map with one weight, added up in float64."""
        main = self.weight_main
        linear = nn.utils.skip_init(nn.Linear, *main.shape, device=main.device, dtype=main.dtype)
        residual = self.U_residual.double() * self.S_residual.double() @ self.V_residual.double()
        linear.weight.copy_(main.double() + residual)
        linear.bias.copy_(self.bias)
        return linear


class EffortNetwork(DetectorNetwork):
    """CLIP vision tower with retrained small singular values, pooled output to two classes (arXiv:2411.15633).

    The constructor leaves the attention weights at zero; load weights, or start with ``from_clip_vision``.

    Args:
        config: Of the tower and the trained part.
    """

    family: ClassVar[str] = "Effort"
    config: EffortConfig

    def __init__(self, config: EffortConfig) -> None:
        super().__init__()
        self.config = config
        backbone = build_tower(config)
        for layer in backbone.encoder.layers:
            for name in PROJECTIONS:
                setattr(layer.self_attn, name, SVDResidualLinear(config.hidden_size, config.rank))
        self.backbone: Any = backbone
        self.head = nn.Linear(config.hidden_size, 2)
        self.set_trainable("residual")

    @classmethod
    def from_clip_vision(cls, vision_model: nn.Module, *, rank: int = 1) -> EffortNetwork:
        """Start a detector, in training mode, from a trained CLIP vision tower, whose output stays the same.

        The tower is a transformers ``CLIPVisionModel``, ``rank`` the number of singular values to retrain. The head
        starts at random (torch's global generator).
        """
        network = cls(EffortConfig(**vars(clip_config(vision_model)), rank=rank))
        state = tower_state_dict(vision_model)
        plain = {name: value for name, value in state.items() if "self_attn" not in name}
        network.backbone.load_state_dict(plain, strict=False)
        for index, layer in enumerate(network.backbone.encoder.layers):
            for name in PROJECTIONS:
                prefix = f"encoder.layers.{index}.self_attn.{name}"
                linear = cast("SVDResidualLinear", getattr(layer.self_attn, name))
                linear.copy_from(state[f"{prefix}.weight"], state[f"{prefix}.bias"])
        return network.train()

    def features(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        """Return the pooled output of the backbone, the head's input, for images in [0, 1]."""
        pixels = tower_pixels(images, self.config.image_size, antialias=self.config.antialias)
        return self.backbone(pixel_values=pixels.to(self.head.weight.dtype)).pooler_output  # resized in their own type

    def _merge(self) -> None:
        """Merge each trained part into its weight, which leaves plain linear maps."""
        for layer in self.backbone.encoder.layers:
            for name in PROJECTIONS:
                setattr(layer.self_attn, name, getattr(layer.self_attn, name).merged())
        merge_quick_gelu(self)

    def set_trainable(self, scope: Literal["residual", "all"]) -> None:
        """Train the small singular values and the head, as published (``residual``), or everything (``all``)."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(scope == "all" or "_residual" in name or name.startswith("head."))


class Effort(CheckpointDetector):
    """CLIP detector with retrained small singular values; ``p_fake`` is the softmax at class 1.

    Images are prepared as Effort's own code does, resized and normalised with CLIP's mean and standard deviation.
    RealGen left the normalisation out in training and used ImageNet's in its evaluation; we do neither. Published
    weights saw images that OpenCV had resized, which takes ``antialias: false`` in the config. For scoring, the trained
    part is merged into the frozen weights.

    Args:
        checkpoint: As in ``CheckpointDetector``, like what follows.
        config: Of the network, where it differs from the published one.
        **settings: ``dtype`` and ``batch_size``.
    """

    network_type: ClassVar[Any] = EffortNetwork
    config_type: ClassVar[type[VisionConfig]] = EffortConfig

    def __init__(self, checkpoint: str, config: EffortConfig | str | None = None, **settings: Any) -> None:
        super().__init__(checkpoint, config, **settings)
