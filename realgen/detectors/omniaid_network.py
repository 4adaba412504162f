"""The network of OmniAID: a CLIP vision tower whose attention maps carry routed low-rank experts.

Built from the published description of the CLIP variant, with its parameter names. Deviations:

- All experts of a layer are applied as one product, scaled by gates that are 0 for the unused ones; the result is the
  same sum.
- The last layer computes the output of the class token alone, the only one that is read.
- The frozen main weights are parameters without gradient rather than buffers (same names on disk), so that
  ``set_trainable("all")`` can train them.
- ``U_r``, ``V_r`` and ``weight_original_fnorm``, which only training uses, are not stored (see
  ``SVDExpertLinear.main_bases``).
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realgen.detectors.clip_vision import QuickGELU, build_tower, clip_config, merge_quick_gelu, tower_state_dict
from realgen.detectors.configs import OmniAIDConfig, RoutedExperts
from realgen.detectors.routed_network import ExpertAttention, GatingNetwork, RoutedNetwork
from realgen.functional.network_input import Preprocess, tower_pixels


class Embeddings(nn.Module):
    """Patches, class token and positions of CLIP's vision tower."""

    def __init__(self, config: OmniAIDConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.patch_embedding = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding((config.image_size // patch) ** 2 + 1, width)

    def forward(self, pixels: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch tokens width"]:
        """Embed pixels; the class token comes first."""
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)  # [B, N - 1, width]
        first = self.class_embedding.expand(len(pixels), 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class MLP(nn.Module):
    """CLIP's two-layer perceptron."""

    def __init__(self, config: OmniAIDConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation_fn: nn.Module = QuickGELU()
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """Apply to each token."""
        return self.fc2(self.activation_fn(self.fc1(hidden)))


class EncoderLayer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: OmniAIDConfig) -> None:
        super().__init__()
        self.self_attn = ExpertAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        hidden: Float[Tensor, "batch tokens width"],
        gates: Float[Tensor, "batch experts"],
        *,
        first_only: bool = False,
    ) -> Float[Tensor, "batch queries width"]:
        """Add attention, then perceptron, to the input; of the class token alone with ``first_only``."""
        attended = self.self_attn(self.layer_norm1(hidden), gates, first_only=first_only)
        hidden = (hidden[:, :1] if first_only else hidden) + attended
        return hidden + self.mlp(self.layer_norm2(hidden))


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
        self.embeddings = Embeddings(config)
        self.ln_pre = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder_layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.ln_post = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
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

    def pixels(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 size size"]:
        """Return CLIP's input for images in [0, 1]."""
        return tower_pixels(images, self.config.image_size, preprocess=cast("Preprocess", self.config.preprocess))

    def encode(
        self,
        embedded: Float[Tensor, "batch tokens width"],
        pixels: Float[Tensor, "batch 3 size size"],
        gates: Float[Tensor, "batch experts"],
    ) -> Float[Tensor, "batch width"]:
        """Return the normalised class token after all layers."""
        hidden = self.ln_pre(embedded)
        for layer in self.encoder_layers[:-1]:
            hidden = layer(hidden, gates)
        return self.ln_post(self.encoder_layers[-1](hidden, gates, first_only=True)[:, 0])

    def _merge(self) -> None:
        super()._merge()
        merge_quick_gelu(self)
