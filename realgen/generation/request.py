"""The request of a user: what is drawn, how often, and where it goes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from realgen.checks import check_at_least
from realgen.data.prompt_text import read_lines

MAX_SEED = 2**32


@dataclass(frozen=True)
class Request:
    """The options of ``realgen.generate``, which its usage explains."""

    prompts: str | None = None
    n: int = 4
    seed: int = 0
    output: str = "runs/generated"
    lora: str | None = None
    rewriter_lora: str | None = None
    batch_size: int = 8
    device: str = "auto"

    def __post_init__(self) -> None:
        check_at_least(1, n=self.n, batch_size=self.batch_size)
        if not 0 <= self.seed <= MAX_SEED - self.n:
            raise ValueError(f"seed must be 0 to {MAX_SEED - self.n} for n={self.n}, got {self.seed}.")


def read_prompts(given: Sequence[str], file: str | None) -> list[str]:
    """Return the prompts of command line and file in order, each once, no empty lines; ValueError if there is none."""
    lines = [] if file is None else read_lines(Path(file))
    if not all(prompt.strip() for prompt in given):
        raise ValueError("a prompt of the command line is empty.")
    prompts = list(dict.fromkeys(prompt.strip() for prompt in (*given, *lines) if prompt.strip()))
    if not prompts:
        raise ValueError('there is no prompt. Give some: python -m realgen.generate "a cat on a sofa"')
    broken = next((prompt for prompt in prompts if re.search("[\ud800-\udfff]", prompt)), None)
    if broken is not None:
        raise ValueError(f"the prompt {broken!r} holds bytes that are no UTF-8 text.")
    return prompts
