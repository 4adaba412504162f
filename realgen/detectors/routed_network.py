"""The shared part of OmniAID's networks, whatever their tower: router, attention with experts, and their training."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from realgen.detectors.base import DetectorNetwork
from realgen.detectors.configs import OmniAIDConfig, OmniAIDDinoConfig, RoutedExperts
from realgen.detectors.expert_linear import ExpertLinear
from realgen.detectors.lora_experts import LoRAExpertLinear
from realgen.detectors.svd_experts import SVDExpertLinear, orthogonality_loss
from realgen.functional.network_input import CLIP_MEAN, CLIP_STD, Preprocess, tower_pixels

Trainable = Literal["experts", "experts_and_gate", "all"]


def sparse_gates(logits: Float[Tensor, "batch routed"], top_k: int) -> Float[Tensor, "batch routed"]:
    """Return the softmax over the ``top_k`` largest logits of a row [B, experts], 0 elsewhere."""
    top = logits.topk(top_k, dim=-1)
    chosen = top.values.softmax(-1).to(logits.dtype)  # autocast computes a softmax in float32
    return torch.zeros_like(logits).scatter(-1, top.indices, chosen)


class GatingNetwork(nn.Module):
    """The router: one logit per routed expert from one vector per image, of a given width."""

    def __init__(self, width: int, experts: RoutedExperts) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(width, experts.router_hidden), nn.ReLU(), nn.Linear(experts.router_hidden, experts.num_routed)
        )

    def forward(self, features: Float[Tensor, "batch width"]) -> Float[Tensor, "batch routed"]:
        """Return router logits."""
        return self.network(features)


class ExpertAttention(nn.Module):
    """Self-attention in a layer of transformers' towers, whose four projections carry experts.

    ``biases`` tells whether each projection has one, by its name in published files (query, key, value, output).
    """

    def __init__(self, config: OmniAIDConfig | OmniAIDDinoConfig, biases: Mapping[str, bool]) -> None:
        super().__init__()
        self.names = tuple(biases)
        self.num_heads = config.num_attention_heads
        kind = {"svd": SVDExpertLinear, "lora": LoRAExpertLinear}[config.expert_type]
        for name, bias in biases.items():
            experts = kind(config.hidden_size, config.num_experts, config.rank, config.dropout, bias=bias)
            self.add_module(name, experts)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch tokens width"],
        gates: Float[Tensor, "batch experts"],
        *,
        first_only: bool = False,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: None = None,
    ) -> tuple[Float[Tensor, "batch queries width"], None]:
        """Attend within each image, tokens [B, N, width], through the experts that its gates [B, experts] choose.

        With ``first_only`` the class token's output alone is computed, [B, 1, width]. ``position_embeddings`` are the
        rotary positions of the patches, if there are any. Named, and returned in a pair, as transformers' layers do.
        """
        query_tokens = hidden_states[:, :1] if first_only else hidden_states
        query, key, value = (
            getattr(self, name)(tokens, gates).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, heads, N, d]
            for name, tokens in zip(self.names, (query_tokens, hidden_states, hidden_states), strict=False)
        )
        if position_embeddings is not None:
            from transformers.models.dinov3_vit.modeling_dinov3_vit import apply_rotary_pos_emb  # seconds to import

            turned, key = apply_rotary_pos_emb(key if first_only else query, key, *position_embeddings)
            query = query if first_only else turned  # the class token has no position
        if not hidden_states.is_cuda:  # on a CPU attention is faster where each head lies in one piece
            query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)  # [B, N, width]
        return getattr(self, self.names[-1])(attended, gates), None


class RoutedNetwork(DetectorNetwork):
    """A vision tower with routed experts, class token to two classes; all layers and tokens of an image share gates."""

    config: OmniAIDConfig | OmniAIDDinoConfig
    embeddings: nn.Module
    gating_network: GatingNetwork
    feature_extractor: Any
    """The frozen tower whose pooled output is the router's input, or None."""
    num_prefix_tokens = 1
    """Tokens before the patches."""
    mean, std = CLIP_MEAN, CLIP_STD
    """By which the tower's input is normalised."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def with_experts(self, layers: nn.ModuleList, attention: str, names: Sequence[str]) -> nn.ModuleList:
        """Give layers of transformers an attention whose projections, of these names, carry experts; return them."""
        for layer in layers:
            plain = getattr(layer, attention)
            biases = {name: getattr(plain, name).bias is not None for name in names}
            setattr(layer, attention, ExpertAttention(self.config, biases))
        return layers

    @abstractmethod
    def encode(
        self, embedded: Tensor, pixels: Tensor, gates: Float[Tensor, "batch experts"]
    ) -> Float[Tensor, "batch features"]:
        """Return the normalised class token after all layers."""

    def router_logits(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch routed"]:
        """Return one logit per routed expert, for images in [0, 1]; to train the router on known domains."""
        pixels = self._pixels(images)
        return self._router_logits(pixels, self.embeddings(pixels))

    def features(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        """Return the normalised class token, the head's input, for images in [0, 1]."""
        pixels = self._pixels(images)
        embedded = self.embeddings(pixels)
        gates = sparse_gates(self._router_logits(pixels, embedded), self.config.top_k)
        if self.config.hybrid and not self.merged:  # the last expert is always on
            gates = torch.cat([gates, torch.ones_like(gates[:, :1])], dim=1)
        return self.encode(embedded, pixels, gates)

    def _pixels(self, images: Tensor) -> Tensor:
        size, preprocess = self.config.image_size, cast("Preprocess", self.config.preprocess)
        pixels = tower_pixels(images, size, mean=self.mean, std=self.std, preprocess=preprocess)
        return pixels.to(self.head.weight.dtype)  # resized in the images' own type

    def _router_logits(self, pixels: Tensor, embedded: Tensor) -> Tensor:
        if self.feature_extractor is None:
            return self.gating_network(embedded[:, self.num_prefix_tokens :].mean(1))
        with torch.no_grad():
            pooled = self.feature_extractor(pixel_values=pixels).pooler_output
        return self.gating_network(pooled)

    def expert_linears(self) -> list[ExpertLinear]:
        """Return all maps with experts, layer by layer."""
        return [module for module in self.modules() if isinstance(module, ExpertLinear)]

    def main_bases(self) -> list[tuple[Tensor, ...]]:
        """Return ``main_bases()`` of each of ``expert_linears()``; takes one SVD per map with SVD experts."""
        return [linear.main_bases() for linear in self.expert_linears()]

    def orthogonality_loss(self, main_bases: list[tuple[Tensor, ...]]) -> Float[Tensor, ""]:
        """Return how much the experts overlap with each other and with the main parts; see ``svd_experts``."""
        return orthogonality_loss(self.expert_linears(), main_bases)

    def set_trainable(self, scope: Trainable) -> None:
        """Choose which parameters get gradients.

        ``experts``: all experts and the head, the published recipe against a generator; ``experts_and_gate``: the
        router too, for a detector trained from its tower; ``all``: everything but the router's frozen tower.
        """
        parts = {"experts": ("_experts.", "head."), "experts_and_gate": ("_experts.", "head.", "gating_network.")}
        for name, parameter in self.named_parameters():
            chosen = scope == "all" or any(part in name for part in parts[scope])
            parameter.requires_grad_(chosen and not name.startswith("feature_extractor."))

    def copy_tower(self, state: dict[str, Tensor], names: Mapping[str, str], *, layers: str, attention: str) -> None:
        """Copy a trained tower: its attention weights into the maps with experts, and all others as they are.

        ``names`` are parts of the names of its weights, and what this network has for them; ``layers`` is the name of
        this network's list of layers, and ``attention`` is in the names of attention weights.
        """
        if self.feature_extractor is not None:
            self.feature_extractor.load_state_dict(state)
        for theirs, ours in names.items():
            state = {name.replace(theirs, ours): value for name, value in state.items()}
        self.load_state_dict({name: value for name, value in state.items() if attention not in name}, strict=False)
        for name, module in self.get_submodule(layers).named_modules(prefix=layers):
            if isinstance(module, ExpertLinear):
                module.copy_from(state[f"{name}.weight"], state.get(f"{name}.bias"))

    def _merge(self) -> None:
        """Merge the always-on expert into the frozen weights, and stack the others once."""
        places = [(module, name) for module in self.modules() for name, _ in module.named_children()]
        for module, name in places:
            child = getattr(module, name)
            if isinstance(child, ExpertLinear):
                setattr(module, name, child.merged(always_on=int(self.config.hybrid)))
