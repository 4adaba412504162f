"""Models in transformers' format, in a folder or on the hub, loaded exactly or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from realgen.checks import first_line
from realgen.detectors.checkpoint import NAMES_SHOWN
from realgen.hub_files import how_to_fetch


def load_pretrained(kind: Any, pretrained: str, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    """Return a transformers model, on the CPU, with every weight from the file: missing ones are not drawn at random.

    ``kind`` is its class, or a tuple of classes of which its config names one; ``pretrained`` a folder in transformers'
    format or a hub id, and ``settings`` are those of ``from_pretrained``.

    Raises:
        ValueError: If there is no such model, it is broken or of another kind, or its weights do not fit its config.
    """
    local, kinds = Path(pretrained).is_dir(), kind if isinstance(kind, tuple) else (kind,)
    try:
        # Another kind's config would be filled up with defaults, and its weights reported as missing.
        config, _ = kinds[0].config_class.get_config_dict(pretrained, local_files_only=local, trust_remote_code=False)
        fitting = [known for known in kinds if known.config_class.model_type == config.get("model_type")]
        if not fitting:
            raise ValueError(f"its config.json has model_type {config.get('model_type')!r}.")
        kind, kinds = fitting[0], (fitting[0],)
        if local:
            _check_size(kind, config, Path(pretrained))
        model, report = kind.from_pretrained(
            pretrained,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            local_files_only=local,
            trust_remote_code=False,
            **settings,
        )
    except Exception as error:  # broken files raise errors of many types
        wanted = " or ".join(known.__name__ for known in kinds)
        told = f"transformers cannot read {pretrained!r} as {wanted}: {first_line(error)}"
        raise ValueError(f"{told}{how_to_fetch(pretrained)}") from error
    entries = {"missing": "missing_keys", "unknown": "unexpected_keys", "of another shape": "mismatched_keys"}
    names = {  # mismatched weights come with their two shapes
        what: sorted(key if isinstance(key, str) else str(key[0]) for key in report[entry])
        for what, entry in entries.items()
    }
    found = [f"{what}: {', '.join(keys[:NAMES_SHOWN])}" for what, keys in names.items() if keys]
    if found:
        raise ValueError(f"{pretrained!r} does not fit {kind.__name__}; {'; '.join(found)}.")
    return model


def _check_size(kind: Any, config: dict[str, Any], folder: Path) -> None:
    """Raise ValueError, before anything is allocated, if a config asks for far more weights than its folder holds."""
    with torch.device("meta"):
        model = kind(kind.config_class.from_dict(config))
    number = sum(parameter.numel() for parameter in model.parameters())
    held = sum(file.stat().st_size for end in ("safetensors", "bin") for file in folder.glob(f"*.{end}"))
    if 0 < 2 * held < number:  # none has fewer than 4 bits
        raise ValueError(f"its config.json asks for {number:,} parameters, and its weights are {held:,} bytes.")


def load_processor(kind: Any, pretrained: str, **settings: Any) -> Any:
    """Read a tokenizer or processor, its config overridden by ``settings``; ValueError if it cannot be read."""
    try:
        local = Path(pretrained).is_dir()
        return kind.from_pretrained(pretrained, local_files_only=local, trust_remote_code=False, **settings)
    except (OSError, ValueError) as error:
        told = f"transformers cannot read {pretrained!r} as {kind.__name__}: {first_line(error)}"
        raise ValueError(f"{told}{how_to_fetch(pretrained)}") from error


@contextmanager
def no_questions() -> Iterator[None]:
    """Let transformers refuse a model's own code instead of asking on standard input, where a library does not say."""
    from transformers import dynamic_module_utils as code

    before, code.TIME_OUT_REMOTE_CODE = code.TIME_OUT_REMOTE_CODE, 0
    try:
        yield
    finally:
        code.TIME_OUT_REMOTE_CODE = before
