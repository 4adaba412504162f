"""Frozen networks that stay on the CPU while they are not needed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from realgen.policies.base import Policy
from realgen.rewards.base import Reward
from realgen.strategies.blocks import frozen_of, networks_of

CPU = torch.device("cpu")


class OnDemand:
    """Move text encoders, decoder and reward to the CPU and back. Exact; costs the copies.

    A text encoder or decoder moves to its input's device when it is called, and back at the transformer's next call.
    The reward moves to the device when an iteration begins, and back at the transformer's first call with gradient,
    when the last image is scored; until then it may score in another thread while the policy samples. Prompts with
    cached embeddings cause no copies.

    Args:
        policy: Its text encoders and decoder are moved.
        reward: Its networks are moved.
    """

    def __init__(self, policy: Policy, reward: Reward) -> None:
        self.parts = frozen_of(policy)
        """Text encoders and decoders."""
        self.reward = reward
        self._reward_is_here = True
        for part in self.parts:
            # A VAE is called by its method ``decode``, which triggers only the hooks of its children.
            for entry in (part, *part.children()):
                entry.register_forward_pre_hook(partial(self._bring, part), with_kwargs=True)
        for network in networks_of(policy):
            network.register_forward_pre_hook(self._put_away, prepend=True)

    def bring_reward(self, device: torch.device) -> None:
        """Move the reward to a device."""
        if not self._reward_is_here:
            self.reward.to(device)
            self._reward_is_here = True

    @staticmethod
    def _bring(part: nn.Module, entry: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        inputs = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        _move(part, next(inputs).device)

    def _put_away(self, network: nn.Module, args: tuple[Any, ...]) -> None:
        for part in self.parts:
            _move(part, CPU)
        if torch.is_grad_enabled() and self._reward_is_here:
            self.reward.to(CPU)
            self._reward_is_here = False


def _move(part: nn.Module, device: torch.device) -> None:
    if next(part.parameters()).device != device:
        part.to(device)
