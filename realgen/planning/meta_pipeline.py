"""A pipeline on the meta device: the real classes, with shapes and types, and no weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from realgen.planning.architecture import Architecture, Component
from realgen.planning.stand_in_tokenizer import StandInTokenizer
from realgen.policies import DiffusionPolicy


def build_pipeline(architecture: Architecture, dtype: torch.dtype) -> Any:
    """Make a pipeline whose networks are on the meta device.

    Args:
        architecture: What to make.
        dtype: Of everything but the VAE, which is always float32.

    Returns:
        The pipeline. Its text encoders take tokens on the CPU, and answer with zeros on the CPU that need no memory.
    """
    import diffusers

    parts = {name: _component(part) for name, part in architecture.components.items()}
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            nn.Module.to(part.eval(), torch.float32 if name == "vae" else dtype)  # that of diffusers talks
        if name.startswith("text_encoder"):
            part.register_forward_pre_hook(_to_meta, with_kwargs=True)
            part.register_forward_hook(_to_cpu)
    pipeline_class: Any = getattr(diffusers, architecture.pipeline)
    return pipeline_class(**parts, **architecture.settings)


def load_on_meta(policy: DiffusionPolicy, architecture: Architecture) -> None:
    """Do what ``policy.load()`` does, its checks included, without weights.

    Args:
        policy: Not loaded yet.
        architecture: Of its backbone.

    Raises:
        ValueError: If the pipeline is of another class than the backbone's.
        ValueError: If the policy or the backbone refuses its settings: see their ``load``.
    """
    backbone: Any = policy.backbone
    pipeline = build_pipeline(architecture, backbone.dtype)
    if type(pipeline).__name__ != backbone.pipeline_class:
        raise ValueError(
            f"pretrained must hold a {backbone.pipeline_class} for {type(backbone).__name__}, got "
            f"{backbone.pretrained!r}, a {type(pipeline).__name__}."
        )
    # What its load would read; with it in place, load reads nothing, and checks the settings.
    backbone._pipeline, backbone._transformer_class = pipeline, type(pipeline.transformer)
    backbone.transformer = pipeline.transformer
    for module in backbone.frozen():
        module.requires_grad_(False)
    add_adapter = pipeline.transformer.add_adapter

    def add_adapter_on_meta(config: Any, name: str) -> None:
        with torch.device("meta"):
            add_adapter(config, name)

    pipeline.transformer.add_adapter = add_adapter_on_meta
    if policy.lora is not None:
        policy.lora = replace(policy.lora, pretrained=None)
    policy.load()


def build_network(part: Component) -> nn.Module:
    """Make one network on the meta device, in float32.

    Args:
        part: Of a pipeline.

    Returns:
        The network, in training mode.
    """
    kind = _class(part)
    with torch.device("meta"):
        if part.package == "diffusers":
            return kind.from_config(dict(part.config))
        return kind(kind.config_class(**part.config))


def _class(part: Component) -> Any:
    import diffusers
    import transformers

    return getattr(diffusers if part.package == "diffusers" else transformers, part.kind)


def _component(part: Component) -> Any:
    if "Tokenizer" in part.kind or part.kind.endswith("Processor"):
        return _tokenizer(part)
    return _class(part).from_config(dict(part.config)) if "Scheduler" in part.kind else build_network(part)


def _tokenizer(part: Component) -> Any:
    if part.folder is None or not any(part.folder.glob("*token*")):
        return StandInTokenizer(**part.config)
    return _class(part).from_pretrained(part.folder, local_files_only=True)


def _to_meta(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Tokens to where the weights are.

    Masks stay out, and so does ``use_cache=False``: they change no FLOPs, and make transformers look at numbers.
    """
    kwargs = {name: value for name, value in kwargs.items() if not name.endswith("mask") and name != "use_cache"}
    args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
    return args, kwargs


def _to_cpu(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    return tree_map_only(Tensor, _zeros, output)


def _zeros(tensor: Tensor) -> Tensor:
    return torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
