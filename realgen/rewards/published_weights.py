"""Files of published weights, on disk or on the hub, and the CLIP that open_clip builds for them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from realgen.detectors.checkpoint import load_exactly
from realgen.functional.published_input import open_clip_input
from realgen.rewards.clip_similarity import Encoders

HUB = "hf-hub:"
"""Start of the address of a file on the Hugging Face hub: hf-hub:OWNER/REPOSITORY/FILE."""
PLAIN_CLIP = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
"""Keys of an open_clip architecture's config if no tower comes from another library."""


def check_file(source: str, argument: str) -> None:
    """Raise ValueError for what is neither a file on disk nor the address of one on the hub; fetch nothing.

    Args:
        source: A path, or ``hf-hub:OWNER/REPOSITORY/FILE``.
        argument: Its name in the message.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> check_file("hf-hub:someone/something/weights.pt", "checkpoint")
    """
    on_hub = source.startswith(HUB) and source.count("/") >= 2 and not source.endswith("/")
    if not on_hub and not Path(source).is_file():
        raise ValueError(f"{argument} must be a file, or {HUB}OWNER/REPOSITORY/FILE; got {source!r}, which is no file.")


def local_file(source: str) -> Path:
    """Return the path of a ``check_file`` source on disk, fetched into the hub's cache if it is on the hub.

    Raises:
        ValueError: If the hub does not have it, or cannot be reached.
    """
    if not source.startswith(HUB):
        return Path(source)
    from huggingface_hub import hf_hub_download  # slow to import

    owner, repository, file = source.removeprefix(HUB).split("/", 2)
    try:
        return Path(hf_hub_download(f"{owner}/{repository}", file))
    except (OSError, ValueError) as error:
        raise ValueError(f"{source!r} cannot be fetched: {str(error).strip().splitlines()[0]}") from error


def clip_encoders(
    architecture: str,
    state: Mapping[str, Tensor],
    source: Path,
    *,
    context_length: int | None = None,
    ignored: Iterable[str] = (),
) -> Encoders:
    """Build an open_clip model with exactly these weights; nothing is resized to fit, as open_clip would do.

    Args:
        architecture: A name that open_clip knows.
        state: Weights by name.
        source: Named in the messages.
        context_length: Tokens of a text; by default the architecture's.
        ignored: Last parts of names in the file that are not loaded.

    Returns:
        The model, its tokenizer, and OpenAI's preprocessing.

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
    preprocess = {
        "size": model.visual.image_size,
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    tokenize = open_clip.get_tokenizer(architecture, context_length=context_length)
    return Encoders(model, tokenize, open_clip_input(preprocess))
