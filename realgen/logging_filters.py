"""Filters for what Lightning, diffusers and transformers print, so that the screen shows what a user asked for."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

TRUNCATED = "The following part of your input was truncated"
"""Start of the message that diffusers logs for every text that is too long for CLIP."""
TOO_LONG = "Token indices sequence length is longer than"
"""Start of the message of transformers, that running such a text "will result in indexing errors"; it is cut off."""
LETTERS_SHOWN = 200
"""Of the words that are cut off; there may be thousands."""

_LIGHTNING_LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed")
_UNWANTED = ("Seed set to", "GPU available: False", "TPU available: False", "\N{ELECTRIC LIGHT BULB} Tip")
_WHILE_IMPORTED = {
    "torch.utils._pytree": "<enum ",
    "diffusers.quantizers.torchao.torchao_quantizer": "Unable to import `torchao` Tensor objects",
}
"""Loggers, and how the lines begin by which torchao of one version greets torch and diffusers of another."""


def quiet_imports() -> None:
    """Drop what importing the libraries logs of each other, which no user can change; call it before."""
    for name in _WHILE_IMPORTED:
        logging.getLogger(name).addFilter(_is_wanted)


def _is_wanted(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_WHILE_IMPORTED[record.name])


def quiet_lightning() -> None:
    """Drop Lightning's lines of missing devices, advertisements, and a deprecation warning of its own code."""
    for name in _LIGHTNING_LOGGERS:
        logging.getLogger(name).addFilter(lambda record: not record.getMessage().startswith(_UNWANTED))
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")


@contextmanager
def no_loading_bars() -> Iterator[None]:
    """Hide the progress bars of diffusers and transformers for weights on disk; those of downloads are still shown."""
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


@contextmanager
def errors_only() -> Iterator[None]:
    """Log nothing below an error."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def report_truncation_once() -> None:
    """Let diffusers and transformers report, in our words, only the first text that is too long for an encoder."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library, logs in (("diffusers", diffusers_logging), ("transformers", transformers_logging)):
        logs.get_logger(library)  # creates the handler together with the first logger
        for handler in logging.getLogger(library).handlers:
            if not any(isinstance(known, Truncations) for known in handler.filters):
                handler.addFilter(Truncations())


class Truncations(logging.Filter):
    """Pass, in our words, the first text that is cut off, then how many are, at 10, 100, ... different ones.

    The message of a tokenizer, which says it too, is dropped; every other one passes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a message passes; one of a text that is cut off is put in our words."""
        message = record.getMessage()
        if not message.startswith(TRUNCATED):
            return getattr(record, "is_told", not message.startswith(TOO_LONG))  # by the filter of another handler
        limit, _, rest = message.partition(" tokens: ")
        words = (rest or limit.removeprefix(TRUNCATED)).split()
        is_new = hash(message) not in self.seen
        self.seen[hash(message)] = len(words)
        number = len(self.seen)
        if number == 1:
            shown = " ".join(words)[:LETTERS_SHOWN]
            record.msg = (
                f"a prompt is cut off behind {limit.split()[-1]} tokens, which a text encoder reads; without effect "
                f"are its last {len(words)} words: {shown} (told again at 10, 100, ... such prompts)"
            )
        else:
            record.msg = f"{number} different prompts are cut off so far, by up to {max(self.seen.values())} words"
        record.args = ()
        is_told = is_new and str(number) == f"1{'0' * (len(str(number)) - 1)}"
        record.__dict__["is_told"] = is_told
        return is_told
