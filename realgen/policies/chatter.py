"""What diffusers and transformers put on the screen, kept to what a user wants to know."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

TRUNCATED = "The following part of your input was truncated"
"""How diffusers begins to tell that a text is too long for CLIP; it does so for every such text."""
LETTERS_SHOWN = 200
"""Of that message, which repeats all that was cut off, thousands of words as it may be."""


@contextmanager
def no_loading_bars() -> Iterator[None]:
    """Take away the bars of diffusers and transformers for weights on disk; those of downloads stay.

    Yields:
        Nothing.
    """
    from diffusers.utils import logging as diffusers_bars
    from transformers.utils import logging as transformers_bars

    shown = diffusers_bars.is_progress_bar_enabled()
    diffusers_bars.disable_progress_bar()
    hook = transformers_bars.set_tqdm_hook(lambda bar, args, kwargs: bar(*args, **{**kwargs, "disable": True}))
    try:
        yield
    finally:
        transformers_bars.set_tqdm_hook(hook)
        if shown:
            diffusers_bars.enable_progress_bar()


def tell_of_truncation_once() -> None:
    """Let diffusers tell of the first text that is too long for CLIP, in short, and not of thousands of rewrites."""
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.get_logger("diffusers")  # it makes its handler with its first logger
    for handler in logging.getLogger("diffusers").handlers:
        if not any(isinstance(known, _OnceOnly) for known in handler.filters):
            handler.addFilter(_OnceOnly())


class _OnceOnly(logging.Filter):
    """Passes the first message of a kind, and its beginning alone."""

    def __init__(self) -> None:
        super().__init__()
        self.told = False

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if not message.startswith(TRUNCATED):
            return True
        if len(message) > LETTERS_SHOWN:
            record.msg, record.args = f"{message[:LETTERS_SHOWN]} ...", ()
        first, self.told = not self.told, True
        return first
