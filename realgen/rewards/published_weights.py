"""The CLIP that open_clip builds for published weights."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from realgen.checks import check_tokenizer
from realgen.detectors.checkpoint import load_exactly
from realgen.functional.published_input import open_clip_input
from realgen.rewards.clip_similarity import Encoders

PLAIN_CLIP = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
"""Keys of an open_clip architecture's config if no tower comes from another library."""


def clip_encoders(
    architecture: str,
    state: Mapping[str, Tensor],
    source: Path,
    *,
    context_length: int | None = None,
    ignored: Iterable[str] = (),
) -> Encoders:
    """Build an open_clip model with exactly these weights; nothing is resized to fit, as open_clip would do.

    It comes with its tokenizer and OpenAI's preprocessing. A text has ``context_length`` tokens, by default the
    architecture's. Names whose last part is in ``ignored`` may be in the file, which messages call ``source``.

    Raises:
        ValueError: If open_clip does not know the architecture, or one of its towers comes from another library.
        ValueError: Naming the weights that do not fit.
    """
    import open_clip  # seconds to import

    config = open_clip.get_model_config(architecture)
    if config is None:
        near = ", ".join(difflib.get_close_matches(architecture, open_clip.list_models(), n=3)) or "none"
        raise ValueError(f"architecture must be one of open_clip's, got {architecture!r}; nearest: {near}.")
    if not set(config) <= PLAIN_CLIP:
        foreign = ", ".join(sorted(set(config) - PLAIN_CLIP))
        raise ValueError(f"architecture must be a plain CLIP, got {architecture!r} with {foreign}.")
    if context_length is not None:
        config["text_cfg"]["context_length"] = context_length
    model = open_clip.CLIP(**config)
    load_exactly(model, state, source, ignored=ignored)
    preprocess = open_clip.transform.PreprocessCfg(size=model.visual.image_size)
    tokenize = open_clip.get_tokenizer(architecture, context_length=context_length)
    check_open_clip_tokenizer(tokenize, model, "architecture")
    return Encoders(model, tokenize, open_clip_input(vars(preprocess)))


def check_open_clip_tokenizer(tokenize: Any, model: Any, argument: str) -> None:
    """Raise ValueError if the tokenizer that open_clip reads from files does not belong to its model."""
    tokenizer, text = getattr(tokenize, "tokenizer", None), getattr(model, "text", model)
    table = getattr(text, "token_embedding", None) or getattr(text, "transformer", None)
    if tokenizer is not None and table is not None:
        table = table if hasattr(table, "num_embeddings") else table.get_input_embeddings()
        check_tokenizer(tokenizer, table.num_embeddings, argument)
