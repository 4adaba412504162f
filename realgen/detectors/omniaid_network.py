"""The network of OmniAID: a CLIP vision tower whose attention maps carry routed low-rank experts.

Built from the published description of the CLIP variant, with its parameter names. Deviations:

- All experts of a layer are applied as one product, scaled by gates that are 0 for the unused ones; the result is the
  same sum.
- The frozen main weights are parameters without gradient rather than buffers (same names on disk), so that
  ``set_trainable("all")`` can train them.
- ``U_r``, ``V_r`` and ``weight_original_fnorm``, which only training uses, are not stored (see
  ``SVDExpertLinear.main_bases``).
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.detectors.clip_vision import (
    PROJECTIONS,
    ClipDetectorNetwork,
    build_tower,
    clip_pixels,
    measures,
    tower_state_dict,
)
from realgen.detectors.omniaid_layers import (
    Embeddings,
    EncoderLayer,
    GatingNetwork,
    OmniAIDConfig,
    Preprocess,
    RouterInput,
    sparse_gates,
)
from realgen.detectors.svd_experts import SVDExpertLinear, orthogonality_loss

Trainable = Literal["experts", "experts_and_gate", "all"]


class OmniAIDNetwork(ClipDetectorNetwork):
    """CLIP vision tower with routed experts, class token to two classes (``yunncheng/OmniAID``).

    All layers and tokens of an image share its gates. The constructor leaves the main weights and experts at zero;
    load weights, or start with ``from_clip_vision``.

    Args:
        config: The network's measures.
    """

    def __init__(self, config: OmniAIDConfig) -> None:
        super().__init__()
        self.config: OmniAIDConfig = config
        self.embeddings = Embeddings(config)
        self.ln_pre = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder_layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.ln_post = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gating_network = GatingNetwork(config)
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
        dropout: float = 0.0,
        preprocess: Preprocess = "v2",
    ) -> OmniAIDNetwork:
        """Start a detector from a trained CLIP vision tower: split its attention weights, copy the rest.

        The router and the head start at random (torch's global generator). All experts start as the same low-rank
        part R of W = W_main + R. Without ``hybrid`` the gates sum to 1, so the tower's output is CLIP's; with it the
        always-on expert adds R once more, as in the published system: the tower starts as CLIP with W_main + 2 R.

        Args:
            vision_model: A transformers ``CLIPVisionModel``.
            num_experts: E, the always-on expert included.
            rank: r, singular values that an expert replaces.
            top_k: Routed experts that act on one image.
            router_hidden: Width of the router's hidden layer.
            hybrid: Whether the last expert is always on.
            router_input: What the router sees: the mean patch embedding before the first layer norm, or the pooled
                output of a second, frozen copy of the tower.
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
                linear = cast("SVDExpertLinear", getattr(layer.self_attn, name))
                linear.copy_from(state[f"{prefix}.weight"], state[f"{prefix}.bias"])

    def router_logits(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch routed"]:
        """One logit per routed expert, for images in [0, 1]; to train the router on known domains."""
        pixels = self._pixels(images)
        return self._router_logits(pixels, self.embeddings(pixels))

    def features(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        """The normalised class token, which the head sees, of images in [0, 1]."""
        pixels = self._pixels(images)
        embedded = self.embeddings(pixels)
        gates = sparse_gates(self._router_logits(pixels, embedded), self.config.top_k)
        if self.config.hybrid:
            gates = torch.cat([gates, torch.ones_like(gates[:, :1])], dim=1)
        hidden = self.ln_pre(embedded)
        for layer in self.encoder_layers:
            hidden = layer(hidden, gates)
        return self.ln_post(hidden[:, 0])

    def _pixels(self, images: Tensor) -> Tensor:
        return clip_pixels(images, self.config.image_size, preprocess=cast("Preprocess", self.config.preprocess))

    def _router_logits(self, pixels: Tensor, embedded: Tensor) -> Tensor:
        if self.feature_extractor is None:
            return self.gating_network(embedded[:, 1:].mean(1))
        with torch.no_grad():
            pooled = self.feature_extractor(pixel_values=pixels).pooler_output
        return self.gating_network(pooled)

    def expert_linears(self) -> list[SVDExpertLinear]:
        """All maps with experts, layer by layer."""
        return [module for module in self.modules() if isinstance(module, SVDExpertLinear)]

    def main_bases(self) -> list[tuple[Tensor, Tensor]]:
        """Main bases of ``expert_linears()``, for ``orthogonality_loss``; takes one SVD per map."""
        return [linear.main_bases() for linear in self.expert_linears()]

    def orthogonality_loss(self, main_bases: list[tuple[Tensor, Tensor]]) -> Float[Tensor, ""]:
        """How much the experts overlap with each other and with the main parts; see ``svd_experts``."""
        return orthogonality_loss(self.expert_linears(), main_bases)

    def set_trainable(self, scope: Trainable) -> None:
        """Choose what ``trainable_parameters`` gives, and what gets gradients.

        Args:
            scope: ``experts``: all experts and the head, the published recipe against a generator;
                ``experts_and_gate``: the router too, for a detector trained from CLIP; ``all``: everything but the
                router's frozen tower.
        """
        parts = {"experts": ("_experts.", "head."), "experts_and_gate": ("_experts.", "head.", "gating_network.")}
        for name, parameter in self.named_parameters():
            chosen = scope == "all" or any(part in name for part in parts[scope])
            parameter.requires_grad_(chosen and not name.startswith("feature_extractor."))
