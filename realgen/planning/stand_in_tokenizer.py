"""A tokenizer that knows no text but makes as many tokens as one would, for models whose files are not here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

_TOKEN = re.compile(r"<\|\w+\|>|\w+|[^\w\s]|\n+")


class StandInTokenizer:
    """One token for each word, sign, line break and marker, and an end.

    Args:
        model_max_length: Most tokens of a text, where a pipeline asks for no other number.
    """

    def __init__(self, model_max_length: int = 512) -> None:
        self.model_max_length = model_max_length
        self.added_tokens_encoder: dict[str, int] = {}

    def tokenize(self, text: str) -> list[str]:
        """The parts of a text that are one token each.

        Example:
            >>> StandInTokenizer().tokenize("a cat, asleep")
            ['a', 'cat', ',', 'asleep']
        """
        return _TOKEN.findall(text)

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]], **_: Any) -> str:
        """A conversation as chat models see it, with the opening of the answer."""
        turns = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in messages)
        return f"{turns}<|im_start|>assistant\n"

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        padding: bool | str = False,
        max_length: int | None = None,
        truncation: bool = False,
        **_: Any,
    ) -> Any:
        """``input_ids`` and ``attention_mask`` of texts, one row each, as a tokenizer of transformers gives them.

        Args:
            text: One or several.
            padding: ``max_length`` pads to that; anything else to the longest text.
            max_length: By default ``model_max_length``.
            truncation: Whether texts are cut to ``max_length``.
        """
        from transformers import BatchEncoding

        most = max_length or self.model_max_length
        counts = [len(self.tokenize(each)) + 1 for each in ([text] if isinstance(text, str) else text)]
        counts = [min(count, most) if truncation else count for count in counts]
        length = most if padding == "max_length" else max(counts)
        mask = torch.arange(length) < torch.tensor(counts)[:, None]
        return BatchEncoding({"input_ids": torch.zeros_like(mask, dtype=torch.long), "attention_mask": mask.long()})
