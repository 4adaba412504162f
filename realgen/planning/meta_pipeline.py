"""A pipeline on the meta device: the real classes, with shapes and types, and no weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from realgen.planning.architecture import Architecture, Component
from realgen.policies import DiffusionPolicy

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A conversation as chat models see it."""


def build_pipeline(architecture: Architecture, dtype: torch.dtype) -> Any:
    """Make a pipeline whose networks are on the meta device; ``dtype`` is of all but the VAE, which is always float32.

    Its text encoders take tokens on the CPU, and answer with zeros on the CPU that need no memory.
    """
    import diffusers

    parts = {name: _component(part) for name, part in architecture.components.items()}
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            # Not part.to(), which diffusers overrides with one that logs.
            nn.Module.to(part.eval(), torch.float32 if name == "vae" else dtype)
        if name.startswith("text_encoder"):
            part.register_forward_pre_hook(_to_meta, with_kwargs=True)
            part.register_forward_hook(_to_cpu)
    pipeline_class: Any = getattr(diffusers, architecture.pipeline)
    return pipeline_class(**parts, **architecture.settings)


def load_on_meta(policy: DiffusionPolicy, architecture: Architecture) -> None:
    """Do what ``policy.load()`` does, checks included, without weights; its backbone is a ``PipelineBackbone``.

    Raises:
        ValueError: If the pipeline is of another class than the backbone's.
        ValueError: If the policy or the backbone refuses its settings: see their ``load``.
    """
    backbone: Any = policy.backbone
    pipeline = build_pipeline(architecture, backbone.dtype)
    backbone.attention_backend = None  # its package may be on the training machine alone
    bits, backbone.text_encoder_bits = backbone.text_encoder_bits, None  # FLOPs are those of whole weights
    backbone.use_pipeline(pipeline)
    backbone.text_encoder_bits = bits
    add_adapter = pipeline.transformer.add_adapter

    def add_adapter_on_meta(config: Any, name: str) -> None:
        with torch.device("meta"):
            add_adapter(config, name)

    pipeline.transformer.add_adapter = add_adapter_on_meta
    if policy.lora is not None:
        policy.lora = replace(policy.lora, pretrained=None)
    policy.load()


def build_network(part: Component) -> nn.Module:
    """Make one network of a pipeline on the meta device, in float32 and in training mode."""
    kind = _class(part)
    with torch.device("meta"):
        if part.package == "diffusers":
            return kind.from_config(dict(part.config))
        return kind(kind.config_class(**part.config))


def placeholder_tokenizer(model_max_length: int = 512) -> Any:
    """Make a tokenizer for models whose files are not here: it knows no text, but makes about as many tokens.

    One token for each word, sign, line break and chat marker, and an end; ``model_max_length`` is the most tokens of a
    text where a pipeline asks for no other number.

    Example:
        >>> len(placeholder_tokenizer()("a cat, asleep").input_ids)
        5
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"<\|\w+\|>|\w+|[^\w\s]|\n+"), "removed", invert=True)
    words.post_processor = processors.TemplateProcessing(single="$A [UNK]", special_tokens=[("[UNK]", 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", pad_token="[UNK]", model_max_length=model_max_length
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _class(part: Component) -> Any:
    import diffusers
    import transformers

    return getattr(diffusers if part.package == "diffusers" else transformers, part.kind)


def _component(part: Component) -> Any:
    if "Tokenizer" in part.kind or part.kind.endswith("Processor"):
        if part.folder is None or not any(part.folder.glob("*token*")):
            return placeholder_tokenizer(**part.config)
        return _class(part).from_pretrained(part.folder, local_files_only=True, trust_remote_code=False)
    return _class(part).from_config(dict(part.config)) if "Scheduler" in part.kind else build_network(part)


def _to_meta(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Move tokens to the weights' device, without masks and ``use_cache=False``.

    These change no FLOPs, and make transformers read numbers, which the meta device does not have.
    """
    kwargs = {name: value for name, value in kwargs.items() if not name.endswith("mask") and name != "use_cache"}
    args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
    return args, kwargs


def _to_cpu(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    return tree_map_only(Tensor, lambda tensor: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape), output)
