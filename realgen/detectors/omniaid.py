"""OmniAID (``yunncheng/OmniAID``), RealGen's feature detector: a CLIP tower whose attention has routed experts.

Built from the published description of the CLIP variant, with its parameter names; all around the attention is
transformers' own. Deviations:

- All experts of a layer are applied as one product, scaled by gates that are 0 for the unused ones; the result is the
  same sum.
- The last layer computes the output of the class token alone, the only one that is read.
- The frozen main weights are parameters without gradient rather than buffers (same names on disk), so that
  ``set_trainable("all")`` can train them.
- ``U_r``, ``V_r`` and ``weight_original_fnorm``, which only training uses, are not stored (see
  ``SVDExpertLinear.main_bases``).
"""

from __future__ import annotations

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from realgen.detectors.checkpoint import CheckpointDetector
from realgen.detectors.configs import OmniAIDConfig, RoutedExperts, VisionConfig
from realgen.detectors.routed_network import GatingNetwork, RoutedNetwork
from realgen.detectors.vision_towers import PROJECTIONS, build_tower, clip_config, merge_quick_gelu, tower_state_dict


class OmniAIDNetwork(RoutedNetwork):
    """CLIP vision tower with routed experts, class token to two classes (``yunncheng/OmniAID``).

    The constructor leaves the main weights and experts at zero; load weights, or start with ``from_clip_vision``.

    Args:
        config: Of the tower and its experts.
    """

    family: ClassVar[str] = "OmniAID on CLIP"
    config: OmniAIDConfig

    def __init__(self, config: OmniAIDConfig) -> None:
        super().__init__(config)
        plain = build_tower(config)
        self.embeddings = plain.embeddings
        self.ln_pre = plain.pre_layrnorm
        self.encoder_layers: Any = self.with_experts(plain.encoder.layers, "self_attn", PROJECTIONS)
        self.ln_post = plain.post_layernorm
        self.gating_network = GatingNetwork(config.hidden_size, config)
        self.head = nn.Linear(config.hidden_size, 2)
        self.feature_extractor = build_tower(config) if config.router_input == "frozen_tower" else None
        self.set_trainable("experts_and_gate")

    @classmethod
    def from_clip_vision(cls, vision_model: nn.Module, experts: RoutedExperts) -> OmniAIDNetwork:
        """Start a detector, in training mode, from a trained CLIP tower: split its attention weights, copy the rest.

        The tower is a transformers ``CLIPVisionModel``. The router and the head start at random (torch's global
        generator). All experts start as the same low-rank part R of W = W_main + R (``lora``: W_main = W, R = 0).
        Without ``hybrid`` the gates sum to 1, so the tower's output is CLIP's; with it the always-on expert adds R once
        more, as in the published system: the tower starts as CLIP with W_main + 2 R.
        """
        network = cls(OmniAIDConfig(**vars(clip_config(vision_model)), **vars(experts)))
        names = {"pre_layrnorm": "ln_pre", "post_layernorm": "ln_post", "encoder.layers": "encoder_layers"}
        network.copy_tower(tower_state_dict(vision_model), names, layers="encoder_layers", attention="self_attn")
        return network

    def encode(
        self,
        embedded: Float[Tensor, "batch tokens width"],
        pixels: Float[Tensor, "batch 3 size size"],
        gates: Float[Tensor, "batch experts"],
    ) -> Float[Tensor, "batch width"]:
        """Return the normalised class token after all layers."""
        hidden = self.ln_pre(embedded)
        *layers, last = self.encoder_layers
        for layer in layers:
            hidden = layer(hidden, None, gates=gates)
        attended, _ = last.self_attn(last.layer_norm1(hidden), gates, first_only=True)
        hidden = hidden[:, :1] + attended
        return self.ln_post(hidden + last.mlp(last.layer_norm2(hidden)))[:, 0]

    def _merge(self) -> None:
        super()._merge()
        merge_quick_gelu(self)


class OmniAID(CheckpointDetector):
    """Mixture-of-experts detector on a CLIP vision tower; ``p_fake`` is the softmax at class 1.

    Published files differ in rank, resizing and the router's input: the one of RealGen's first release has the defaults
    of ``OmniAIDConfig`` with ``preprocess: v1``, the public OmniAID files ``router_input: frozen_tower``. A file that
    does not fit its config is refused, with the build that it looks like. For scoring, the expert that is always on is
    merged into the frozen weights.

    Args:
        checkpoint: As in ``CheckpointDetector``, like what follows.
        config: Of the network, where it differs from the published one.
        **settings: ``dtype`` and ``batch_size``.
    """

    network_type: ClassVar[Any] = OmniAIDNetwork
    config_type: ClassVar[type[VisionConfig]] = OmniAIDConfig

    def __init__(self, checkpoint: str, config: OmniAIDConfig | str | None = None, **settings: Any) -> None:
        super().__init__(checkpoint, config, **settings)
