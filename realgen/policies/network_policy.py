"""What policies share that train one network of diffusers or transformers, through adapters or as a whole."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn

from realgen.policies.base import Policy
from realgen.policies.lora import LoRA, merged


class NetworkPolicy(Policy):
    """Trains one network, whose frozen start is the reference.

    The network is in eval mode always, in training too: what is scored must be what sampled. ValueError if a copy is to
    be kept beside adapters, or there are none to be merged. Its arguments are explained in its subclasses.
    """

    def __init__(self, lora: LoRA | None, *, keep_reference: bool, merge_adapters: bool = False) -> None:
        super().__init__()
        if keep_reference and lora is not None:
            raise ValueError("keep_reference is for lora=null: with adapters the reference is the policy without them.")
        self.lora = lora
        if merge_adapters and lora is None:
            raise ValueError("merge_adapters is for adapters: set lora.")
        self.keep_reference = keep_reference
        self.merge_adapters = merge_adapters
        self._frozen_start: tuple[nn.Module, ...] = ()  # a tuple hides the copy from state_dict and optimizers
        self._in_reference = False

    @property
    @abstractmethod
    def network(self) -> Any:
        """The trained network; there after ``load``."""

    @property
    def has_reference(self) -> bool:
        """Whether ``reference`` works."""
        return self.lora is not None or self.keep_reference

    def attach(self, network: Any, lora_targets: Sequence[str]) -> None:
        """Attach adapters, by default to ``lora_targets``; or train the whole network, with a copy as reference."""
        if self.lora is not None:
            self.lora.attach(network, lora_targets)
            return
        network.requires_grad_(True)
        if self.keep_reference:
            self._frozen_start = (copy.deepcopy(network).requires_grad_(False),)

    def train(self, mode: bool = True) -> NetworkPolicy:
        """Set the mode of the policy; the network stays in eval mode."""
        super().train(mode)
        for module in self.children():
            module.eval()
        return self

    def sampling(self) -> AbstractContextManager[None]:
        """Return the context in which the network samples: with ``merge_adapters`` that of ``merged``."""
        return merged(self.network) if self.merge_adapters else nullcontext()

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Be the frozen start in this context: adapters off, or the kept copy; ValueError if neither is there."""
        if not self.has_reference:
            raise ValueError("the policy has no reference: set lora, or keep_reference=true for full fine-tuning.")
        if self.lora is not None:
            self.network.disable_adapters()
        self._in_reference = True
        try:
            yield
        finally:
            self._in_reference = False
            if self.lora is not None:
                self.network.enable_adapters()
