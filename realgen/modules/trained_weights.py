"""Checkpoints of trained weights only: the frozen host is read from where it came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from realgen.policies.base import Policy


def keep_trained(state_dict: Mapping[str, Tensor], policy: Policy) -> dict[str, Tensor]:
    """What of a module's state dict the policy trains; the policy is the module's ``policy``."""
    names = _trained(policy)
    return {name: value for name, value in state_dict.items() if name in names}


def check_trained(names: Iterable[str], policy: Policy) -> None:
    """Refuse a checkpoint that another policy wrote.

    Args:
        names: Of the weights in the checkpoint.
        policy: The one to resume.

    Raises:
        ValueError: If the checkpoint lacks weights that the policy trains, or holds others.
    """
    trained, saved = _trained(policy), set(names)
    for odd, meaning in ((trained - saved, "lacks"), (saved - trained, "holds, but the policy does not train,")):
        if odd:
            raise ValueError(
                f"the checkpoint {meaning} {len(odd)} of the policy's weights, such as {min(odd)}; resume with the "
                "policy (class, base model, LoRA rank and targets) that wrote it."
            )


def _trained(policy: Policy) -> set[str]:
    return {f"policy.{name}" for name in policy.trainable_parameters()}
