"""How a network with routed experts is started from a tower, trained, and merged for scoring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from realgen.detectors.base import DetectorNetwork
from realgen.detectors.configs import OmniAIDConfig, OmniAIDDinoConfig
from realgen.detectors.expert_linear import ExpertLinear
from realgen.detectors.svd_experts import orthogonality_loss

Trainable = Literal["experts", "experts_and_gate", "all"]


class ExpertTraining(DetectorNetwork):
    """What OmniAID's networks do before they score, whatever their tower."""

    config: OmniAIDConfig | OmniAIDDinoConfig
    feature_extractor: Any
    """The frozen tower whose pooled output is the router's input, or None."""

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

        Args:
            scope: ``experts``: all experts and the head, the published recipe against a generator;
                ``experts_and_gate``: the router too, for a detector trained from its tower; ``all``: everything but the
                router's frozen tower.
        """
        parts = {"experts": ("_experts.", "head."), "experts_and_gate": ("_experts.", "head.", "gating_network.")}
        for name, parameter in self.named_parameters():
            chosen = scope == "all" or any(part in name for part in parts[scope])
            parameter.requires_grad_(chosen and not name.startswith("feature_extractor."))

    def copy_tower(self, state: dict[str, Tensor], names: Mapping[str, str], *, layers: str, attention: str) -> None:
        """Copy a trained tower: its attention weights into the maps with experts, and all others as they are.

        Args:
            state: The tower's weights.
            names: Parts of its names, and what this network has for them.
            layers: Name of this network's list of layers.
            attention: What the names of attention weights hold.
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
