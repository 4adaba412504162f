"""Causal language models of transformers, loaded exactly or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from realgen.checks import check_tokenizer, first_line
from realgen.hub_files import how_to_fetch
from realgen.logging_filters import no_loading_bars

NAMES_SHOWN = 3


def load_language_model(
    pretrained: str,
    dtype: torch.dtype,
    *,
    local_files_only: bool,
    checkpointing: bool = False,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """Read a model, in eval mode, and its tokenizer onto the CPU, from a directory in transformers' format or a hub id.

    With ``checkpointing``, layers recompute activations in the backward pass inside ``checkpointed_layers``. With
    ``trust_remote_code``, Python files that the model brings are run.

    Raises:
        ValueError: If there is no such model, or its weights do not fit it; transformers would draw them at random.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"local_files_only": local_files_only}
    try:
        with torch.device("cpu"), no_loading_bars():
            model, report = AutoModelForCausalLM.from_pretrained(
                pretrained,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                trust_remote_code=trust_remote_code,
                **where,
            )
        tokenizer = AutoTokenizer.from_pretrained(pretrained, trust_remote_code=trust_remote_code, **where)
        check_tokenizer(tokenizer, model.get_input_embeddings().num_embeddings)
    except (OSError, ValueError) as error:
        to_do = how_to_fetch(pretrained) if local_files_only else ""
        raise ValueError(
            f"pretrained must hold a causal language model and its tokenizer in transformers' format, got "
            f"{pretrained!r} (local_files_only={local_files_only}): {first_line(error)}{to_do}"
        ) from error
    lacking = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if lacking:
        raise ValueError(f"{pretrained!r} lacks weights of {type(model).__name__}: {', '.join(lacking[:NAMES_SHOWN])}.")
    if checkpointing:  # transformers below 5.21 has only the older name
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return model.eval(), tokenizer


def linear_layers(model: Any) -> list[str]:
    """Return the ends of the names of all linear layers but the output layer; adapters change them by default.

    Those are the names' last parts; or whole names, where the model has a tower for images that texts never enter and
    whose layers are called alike, as Gemma 3's from 4B are.
    """
    head, decoder = model.get_output_embeddings(), set(model.get_decoder().modules())
    linear = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear) and part is not head}
    read = sorted(name for name, part in linear.items() if part in decoder)
    return read if len(read) < len(linear) else sorted({name.rpartition(".")[2] for name in linear})


def end_token_ids(model: Any) -> list[int]:
    """Return the end tokens of the model's own config; a chat model often has two."""
    config = getattr(model, "generation_config", None)
    ids = getattr(config, "eos_token_id", None)
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


@contextmanager
def checkpointed_layers(model: nn.Module) -> Iterator[None]:
    """Inside, layers recompute activations in the backward pass, if the model was loaded with ``checkpointing``.

    Transformers does so in training mode only, and then drops the key-value cache. So only the layers' own flag is set,
    during a forward pass; their children stay in eval mode, without dropout.
    """
    layers = [part for part in model.modules() if getattr(part, "gradient_checkpointing", False)]
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False
