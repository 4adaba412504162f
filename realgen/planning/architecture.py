"""The shape of a model, and a pipeline of it on the meta device: the real classes, with types and without weights.

It is found in the model's own folder, in the hub's cache, or among the published numbers of this package.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from realgen.given_files import read_json
from realgen.hub_files import found_at
from realgen.policies import DiffusionPolicy

MODEL_INDEX = "model_index.json"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A conversation as chat models see it."""


@dataclass(frozen=True)
class Component:
    """One part of a pipeline."""

    package: str
    """``diffusers`` or ``transformers``."""
    kind: str
    """Name of its class there."""
    config: Mapping[str, Any]
    """Content of its ``config.json``; what is missing has the class's defaults."""
    folder: Path | None = None
    """Where its files are; None if they are not on this machine."""


@dataclass(frozen=True)
class Architecture:
    """Everything of a pipeline but its weights."""

    pipeline: str
    """Name of its class in diffusers."""
    components: Mapping[str, Component]
    """By name, without those that the model does not have."""
    settings: Mapping[str, Any]
    """Other arguments of the pipeline's constructor; None for components that the model does not have."""
    source: str
    """Where this was read, for the reader of a plan."""


def find_architecture(pretrained: str) -> Architecture:
    """Look in the folder, then in the hub's cache of this machine, then among the published numbers; never online.

    Raises:
        ValueError: If the shape of this model is in none of them.
    """
    folder = found_at(pretrained)
    if folder is not None and (Path(pretrained).is_dir() or (folder / MODEL_INDEX).is_file()):
        return _read_folder(folder, pretrained)
    facts = published()
    if pretrained not in facts:
        near = difflib.get_close_matches(pretrained, facts, n=1, cutoff=0.0)
        raise ValueError(
            f"pretrained {pretrained!r} is no folder with {MODEL_INDEX}, is not in the hub's cache on this machine, "
            f"and its shape is not among the published ones: {', '.join(sorted(facts))}. "
            f"Nearest: {near[0]}. To plan without its weights, fetch its *.json files alone: "
            f"hf download {pretrained} --include '*.json'"
        )
    return facts[pretrained]


def _read_folder(folder: Path, pretrained: str) -> Architecture:
    """Read the configs of a pipeline's folder; raises ValueError if a file is missing or names no pipeline."""
    index = _read(folder / MODEL_INDEX)
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise ValueError(f"pretrained: {str(folder / MODEL_INDEX)!r} must name a diffusers pipeline in _class_name.")
    pairs = {name: entry for name, entry in index.items() if isinstance(entry, list) and _names_a_class(entry)}
    named = {name: entry for name, entry in pairs.items() if entry[0]}
    components = {}
    for name, (package, kind) in named.items():
        place = folder / name
        tokenizes = not (place / "config.json").is_file() and name.startswith(("tokenizer", "feature", "processor"))
        file = place / ("scheduler_config.json" if name == "scheduler" else "config.json")
        components[name] = Component(package, kind, {} if tokenizes else _read(file), place)
    absent = {name: None for name in pairs if name not in named}
    plain = {name: value for name, value in index.items() if name[0] != "_" and name not in pairs}
    where = "its folder" if Path(pretrained).is_dir() else "the hub's cache on this machine"
    return Architecture(
        index["_class_name"], components, {**plain, **absent}, f"config.json of {pretrained}, from {where}"
    )


def _names_a_class(entry: list[Any]) -> bool:
    return len(entry) == 2 and all(part is None or isinstance(part, str) for part in entry)


def _read(file: Path) -> Any:
    try:
        return read_json(file)
    except ValueError as error:
        raise ValueError(f"pretrained must hold a diffusers pipeline: {error}") from error


def published() -> dict[str, Architecture]:
    """Read the architectures in this package's folder ``architectures``, by hub id."""
    found = {}
    for file in files("realgen.planning").joinpath("architectures").iterdir():
        if not file.name.endswith(".yaml"):
            continue
        facts = yaml.safe_load(file.read_text(encoding="utf-8"))
        components = {
            name: Component(package, kind, part.get("config") or {})
            for name, part in facts["components"].items()
            for package, _, kind in [part["class"].partition(".")]
        }
        source = f"published numbers in realgen/planning/architectures/{file.name}; {facts['source']}"
        for hub_id in facts["hub_ids"]:
            found[hub_id] = Architecture(facts["pipeline"], components, facts.get("settings") or {}, source)
    return found


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
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"<\|\w+\|>|\w+|[^\w\s]|\n+"), "removed", invert=True)
    words.post_processor = processors.TemplateProcessing(single="$A [UNK]", special_tokens=[("[UNK]", 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="[UNK]",
        pad_token="[UNK]",
        eos_token="[UNK]",
        model_max_length=model_max_length,
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
