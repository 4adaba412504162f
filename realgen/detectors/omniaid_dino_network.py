"""The network of OmniAID on DINOv3: a vision transformer whose attention maps carry routed low-rank experts.

Built from the published description of the DINO variant, with its parameter names; all around the attention is
transformers' own. Deviations: those of ``omniaid_network``.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

from jaxtyping import Float
from torch import Tensor, nn

from realgen.detectors.configs import OmniAIDDinoConfig, RoutedExperts
from realgen.detectors.dinov3 import DINO_PROJECTIONS, Rotation, build_dino, dino_config
from realgen.detectors.routed_network import ExpertAttention, GatingNetwork, RoutedNetwork
from realgen.functional.network_input import IMAGENET_MEAN, IMAGENET_STD, Preprocess, tower_pixels


class DinoLayer(nn.Module):
    """One pre-norm transformer layer with layer scale, around an attention with experts.

    All but the attention is taken from ``plain``, transformers' layer.
    """

    def __init__(self, config: OmniAIDDinoConfig, plain: Any) -> None:
        super().__init__()
        self.norm1, self.layer_scale1 = plain.norm1, plain.layer_scale1
        self.attention = ExpertAttention(config, names=DINO_PROJECTIONS, biases=config.biases)
        self.norm2, self.mlp, self.layer_scale2 = plain.norm2, plain.mlp, plain.layer_scale2

    def forward(
        self,
        hidden: Float[Tensor, "batch tokens width"],
        gates: Float[Tensor, "batch experts"],
        rotation: Rotation,
        *,
        first_only: bool = False,
    ) -> Float[Tensor, "batch queries width"]:
        """Add attention, then perceptron, scaled, to the input; of the class token alone with ``first_only``."""
        attended = self.attention(self.norm1(hidden), gates, first_only=first_only, rotation=rotation)
        hidden = (hidden[:, :1] if first_only else hidden) + self.layer_scale1(attended)
        return hidden + self.layer_scale2(self.mlp(self.norm2(hidden)))


class OmniAIDDinoNetwork(RoutedNetwork):
    """DINOv3 vision transformer with routed experts, class token to two classes (``yunncheng/OmniAID``).

    The constructor leaves the main weights and experts at zero; load weights, or start with ``from_dinov3``.

    Args:
        config: Of the tower and its experts.
    """

    family: ClassVar[str] = "OmniAID on DINOv3"
    config: OmniAIDDinoConfig

    def __init__(self, config: OmniAIDDinoConfig) -> None:
        super().__init__(config)
        self.num_prefix_tokens = 1 + config.num_register_tokens
        plain = build_dino(config)
        self.embeddings = plain.embeddings
        self.rope_embeddings = plain.rope_embeddings
        self.layer = nn.ModuleList(DinoLayer(config, layer) for layer in plain.model.layer)
        self.norm = plain.norm
        self.gating_network = GatingNetwork(config.hidden_size, config)
        self.head = nn.Linear(config.hidden_size, 2)
        self.feature_extractor = build_dino(config) if config.router_input == "frozen_tower" else None
        self.set_trainable("experts_and_gate")

    @classmethod
    def from_dinov3(cls, vision_model: nn.Module, experts: RoutedExperts) -> OmniAIDDinoNetwork:
        """Start a detector, in training mode, from a trained DINOv3: split its attention weights, copy the rest.

        The tower is a transformers ``DINOv3ViTModel``. The router and the head start at random (torch's global
        generator); the experts as in ``OmniAIDNetwork.from_clip_vision``.
        """
        network = cls(OmniAIDDinoConfig(**vars(dino_config(vision_model)), **vars(experts)))
        network.copy_tower(vision_model.state_dict(), {"model.": ""}, layers="layer", attention="attention")
        return network.train()

    def pixels(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 size size"]:
        """Return DINOv3's input for images in [0, 1]."""
        config, preprocess = self.config, cast("Preprocess", self.config.preprocess)
        return tower_pixels(images, config.image_size, mean=IMAGENET_MEAN, std=IMAGENET_STD, preprocess=preprocess)

    def encode(
        self,
        embedded: Float[Tensor, "batch tokens width"],
        pixels: Float[Tensor, "batch 3 size size"],
        gates: Float[Tensor, "batch experts"],
    ) -> Float[Tensor, "batch width"]:
        """Return the normalised class token after all layers."""
        rotation = Rotation(*self.rope_embeddings(pixels))
        hidden = embedded
        for layer in self.layer[:-1]:
            hidden = layer(hidden, gates, rotation)
        return self.norm(self.layer[-1](hidden, gates, rotation, first_only=True)[:, 0])
