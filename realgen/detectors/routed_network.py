"""What OmniAID's networks do whatever their tower: route, train, fold."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.detectors.expert_linear import ExpertLinear
from realgen.detectors.network import DetectorNetwork
from realgen.detectors.omniaid_config import OmniAIDConfig, OmniAIDDinoConfig
from realgen.detectors.omniaid_layers import GatingNetwork, sparse_gates
from realgen.detectors.svd_experts import orthogonality_loss

Trainable = Literal["experts", "experts_and_gate", "all"]


class RoutedNetwork(DetectorNetwork):
    """A vision tower with routed experts, class token to two classes; all layers and tokens of an image share gates.

    Args:
        config: The network's measures.
    """

    config: OmniAIDConfig | OmniAIDDinoConfig
    embeddings: nn.Module
    gating_network: GatingNetwork
    feature_extractor: Any
    """The frozen tower whose pooled output the router sees, or None."""
    num_prefix_tokens = 1
    """Tokens before the patches."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def pixels(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 size size"]:
        """What the tower sees of images in [0, 1]."""

    @abstractmethod
    def encode(
        self, embedded: Tensor, pixels: Tensor, gates: Float[Tensor, "batch experts"]
    ) -> Float[Tensor, "batch features"]:
        """The normalised class token after all layers."""

    def router_logits(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch routed"]:
        """One logit per routed expert, for images in [0, 1]; to train the router on known domains."""
        pixels = self._typed_pixels(images)
        return self._router_logits(pixels, self.embeddings(pixels))

    def features(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        """The normalised class token, which the head sees, of images in [0, 1]."""
        pixels = self._typed_pixels(images)
        embedded = self.embeddings(pixels)
        gates = sparse_gates(self._router_logits(pixels, embedded), self.config.top_k)
        if self.config.hybrid and not self.folded:
            gates = torch.cat([gates, torch.ones_like(gates[:, :1])], dim=1)
        return self.encode(embedded, pixels, gates)

    def _typed_pixels(self, images: Tensor) -> Tensor:
        return self.pixels(images).to(self.head.weight.dtype)  # resized in the images' own type

    def _router_logits(self, pixels: Tensor, embedded: Tensor) -> Tensor:
        if self.feature_extractor is None:
            return self.gating_network(embedded[:, self.num_prefix_tokens :].mean(1))
        with torch.no_grad():
            pooled = self.feature_extractor(pixel_values=pixels).pooler_output
        return self.gating_network(pooled)

    def expert_linears(self) -> list[ExpertLinear]:
        """All maps with experts, layer by layer."""
        return [module for module in self.modules() if isinstance(module, ExpertLinear)]

    def main_bases(self) -> list[tuple[Tensor, ...]]:
        """Main bases of ``expert_linears()``, for ``orthogonality_loss``; takes one SVD per map with SVD experts."""
        return [linear.main_bases() for linear in self.expert_linears()]

    def orthogonality_loss(self, main_bases: list[tuple[Tensor, ...]]) -> Float[Tensor, ""]:
        """How much the experts overlap with each other and with the main parts; see ``svd_experts``."""
        return orthogonality_loss(self.expert_linears(), main_bases)

    def set_trainable(self, scope: Trainable) -> None:
        """Choose what ``trainable_parameters`` gives, and what gets gradients.

        Args:
            scope: ``experts``: all experts and the head, the published recipe against a generator;
                ``experts_and_gate``: the router too, for a detector trained from its tower; ``all``: everything but the
                router's frozen tower.
        """
        parts = {"experts": ("_experts.", "head."), "experts_and_gate": ("_experts.", "head.", "gating_network.")}
        for name, parameter in self.named_parameters():
            chosen = scope == "all" or any(part in name for part in parts[scope])
            parameter.requires_grad_(chosen and not name.startswith("feature_extractor."))

    def _fold(self) -> None:
        """Melt the always-on expert into the frozen weights, and stack the others once."""
        places = [(module, name) for module in self.modules() for name, _ in module.named_children()]
        for module, name in places:
            child = getattr(module, name)
            if isinstance(child, ExpertLinear):
                setattr(module, name, child.folded(always_on=int(self.config.hybrid)))
