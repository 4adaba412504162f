"""OmniAID on DINOv3: a vision transformer whose attention maps carry routed low-rank experts.

Built from the published description of the DINO variant, with its parameter names; all around the attention is
transformers' own. Deviations: those of ``omniaid``.
"""

from __future__ import annotations

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from realgen.detectors.checkpoint import CheckpointDetector
from realgen.detectors.configs import OmniAIDDinoConfig, RoutedExperts, VisionConfig
from realgen.detectors.routed_network import GatingNetwork, RoutedNetwork
from realgen.detectors.vision_towers import DINO_PROJECTIONS, build_dino, dino_config
from realgen.functional.network_input import IMAGENET_MEAN, IMAGENET_STD


class OmniAIDDinoNetwork(RoutedNetwork):
    """DINOv3 vision transformer with routed experts, class token to two classes (``yunncheng/OmniAID``).

    The constructor leaves the main weights and experts at zero; load weights, or start with ``from_dinov3``.

    Args:
        config: Of the tower and its experts.
    """

    family: ClassVar[str] = "OmniAID on DINOv3"
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    config: OmniAIDDinoConfig

    def __init__(self, config: OmniAIDDinoConfig) -> None:
        super().__init__(config)
        self.num_prefix_tokens = 1 + config.num_register_tokens
        plain = build_dino(config)
        self.embeddings = plain.embeddings
        self.rope_embeddings = plain.rope_embeddings
        self.layer: Any = self.with_experts(plain.model.layer, "attention", DINO_PROJECTIONS)
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

    def encode(
        self,
        embedded: Float[Tensor, "batch tokens width"],
        pixels: Float[Tensor, "batch 3 size size"],
        gates: Float[Tensor, "batch experts"],
    ) -> Float[Tensor, "batch width"]:
        """Return the normalised class token after all layers."""
        rotation, hidden = self.rope_embeddings(pixels), embedded
        *layers, last = self.layer
        for layer in layers:
            hidden = layer(hidden, position_embeddings=rotation, gates=gates)
        how: Any = {"position_embeddings": rotation, "first_only": True}
        attended, _ = last.attention(last.norm1(hidden), gates, **how)
        hidden = hidden[:, :1] + last.layer_scale1(attended)
        return self.norm(hidden + last.layer_scale2(last.mlp(last.norm2(hidden))))[:, 0]


class OmniAIDDino(CheckpointDetector):
    """Mixture-of-experts detector on a DINOv3 vision transformer (RealGen v2); ``p_fake`` is the softmax at class 1.

    Slower than the CLIP variant and less alike to it than another file of the same tower, so a better second opinion.

    Args:
        checkpoint: As in ``CheckpointDetector``, like what follows.
        config: Of the network, where it differs from the published one.
        **settings: ``dtype`` and ``batch_size``.
    """

    network_type: ClassVar[Any] = OmniAIDDinoNetwork
    config_type: ClassVar[type[VisionConfig]] = OmniAIDDinoConfig

    def __init__(self, checkpoint: str, config: OmniAIDDinoConfig | str | None = None, **settings: Any) -> None:
        super().__init__(checkpoint, config, **settings)
