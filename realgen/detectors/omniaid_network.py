"""The network of OmniAID: a CLIP vision tower whose attention maps carry routed low-rank experts.

Built from the published description of the CLIP variant, with its parameter names. Deviations:

- All experts of a layer are applied as one product, scaled by gates that are 0 for the unused ones; the result is the
  same sum.
- The last layer answers for the class token alone, the only one that is read.
- The frozen main weights are parameters without gradient rather than buffers (same names on disk), so that
  ``set_trainable("all")`` can train them.
- ``U_r``, ``V_r`` and ``weight_original_fnorm``, which only training uses, are not stored (see
  ``SVDExpertLinear.main_bases``).
"""

from __future__ import annotations

from typing import ClassVar, cast

from jaxtyping import Float
from torch import Tensor, nn

from realgen.detectors.clip_vision import (
    PROJECTIONS,
    ClipDetectorNetwork,
    build_tower,
    fold_quick_gelu,
    measures,
    tower_state_dict,
)
from realgen.detectors.expert_linear import ExpertLinear
from realgen.detectors.omniaid_config import ExpertType, OmniAIDConfig, RouterInput
from realgen.detectors.omniaid_layers import Embeddings, EncoderLayer, GatingNetwork
from realgen.detectors.pixels import Preprocess, clip_pixels
from realgen.detectors.routed_network import RoutedNetwork


class OmniAIDNetwork(RoutedNetwork, ClipDetectorNetwork):
    """CLIP vision tower with routed experts, class token to two classes (``yunncheng/OmniAID``).

    All layers and tokens of an image share its gates. The constructor leaves the main weights and experts at zero;
    load weights, or start with ``from_clip_vision``.

    Args:
        config: The network's measures.
    """

    family: ClassVar[str] = "OmniAID on CLIP"
    config: OmniAIDConfig

    def __init__(self, config: OmniAIDConfig) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.ln_pre = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder_layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.ln_post = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gating_network = GatingNetwork(config.hidden_size, config)
        self.head = nn.Linear(config.hidden_size, 2)
        self.feature_extractor = build_tower(config) if config.router_input == "frozen_tower" else None
        self.set_trainable("experts_and_gate")

    @classmethod
    def from_clip_vision(
        cls,
        vision_model: nn.Module,
        *,
        num_experts: int = 6,
        rank: int = 1,
        top_k: int = 2,
        router_hidden: int = 256,
        hybrid: bool = True,
        router_input: RouterInput = "patch_embeddings",
        expert_type: ExpertType = "svd",
        dropout: float = 0.0,
        preprocess: Preprocess = "v2",
    ) -> OmniAIDNetwork:
        """Start a detector from a trained CLIP vision tower: split its attention weights, copy the rest.

        The router and the head start at random (torch's global generator). All experts start as the same low-rank
        part R of W = W_main + R (``lora``: W_main = W, R = 0). Without ``hybrid`` the gates sum to 1, so the tower's
        output is CLIP's; with it the always-on expert adds R once more, as in the published system: the tower starts
        as CLIP with W_main + 2 R.

        Args:
            vision_model: A transformers ``CLIPVisionModel``.
            num_experts: E, the always-on expert included.
            rank: r, singular values that an expert replaces.
            top_k: Routed experts that act on one image.
            router_hidden: Width of the router's hidden layer.
            hybrid: Whether the last expert is always on.
            router_input: What the router sees: the mean patch embedding before the first layer norm, or the pooled
                output of a second, frozen copy of the tower.
            expert_type: ``svd`` retrains the smallest singular values, ``lora`` adds adapters that start at zero.
            dropout: Probability of dropping an input of the experts, in training only.
            preprocess: ``v1`` resizes to 512 pixels on the way, ``v2`` does not.

        Returns:
            The network, in training mode.
        """
        network = cls(
            OmniAIDConfig(
                **cast("dict[str, int]", measures(vision_model)),
                num_experts=num_experts,
                rank=rank,
                top_k=top_k,
                router_hidden=router_hidden,
                hybrid=hybrid,
                router_input=router_input,
                expert_type=expert_type,
                dropout=dropout,
                preprocess=preprocess,
            )
        )
        network._copy_tower(vision_model)
        return network

    def _copy_tower(self, vision_model: nn.Module) -> None:
        state = tower_state_dict(vision_model)
        if self.feature_extractor is not None:
            self.feature_extractor.load_state_dict(state)
        for published, name in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm")):
            state = {key.replace(name, published): value for key, value in state.items()}
        state = {key.replace("encoder.layers", "encoder_layers"): value for key, value in state.items()}
        self.load_state_dict({key: value for key, value in state.items() if "self_attn" not in key}, strict=False)
        for index, layer in enumerate(self.encoder_layers):
            for name in PROJECTIONS:
                prefix = f"encoder_layers.{index}.self_attn.{name}"
                linear = cast("ExpertLinear", getattr(layer.self_attn, name))
                linear.copy_from(state[f"{prefix}.weight"], state[f"{prefix}.bias"])

    def pixels(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 size size"]:
        """What CLIP sees of images in [0, 1]."""
        return clip_pixels(images, self.config.image_size, preprocess=cast("Preprocess", self.config.preprocess))

    def encode(
        self,
        embedded: Float[Tensor, "batch tokens width"],
        pixels: Float[Tensor, "batch 3 size size"],
        gates: Float[Tensor, "batch experts"],
    ) -> Float[Tensor, "batch width"]:
        """The normalised class token after all layers."""
        hidden = self.ln_pre(embedded)
        for layer in self.encoder_layers[:-1]:
            hidden = layer(hidden, gates)
        return self.ln_post(self.encoder_layers[-1](hidden, gates, first_only=True)[:, 0])

    def _fold(self) -> None:
        super()._fold()
        fold_quick_gelu(self)
