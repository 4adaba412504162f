"""Prompts as tokens of a chat model, and its completions as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from realgen.policies.completion import TAGS, clean

PLACEHOLDER = "{prompt}"
AS_WRITTEN = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}


def check_instruction(instruction: str) -> None:
    """Raise ValueError if ``{prompt}`` is not in an instruction exactly once."""
    if (count := instruction.count(PLACEHOLDER)) != 1:
        raise ValueError(
            f"instruction must hold {PLACEHOLDER} once, where the user's prompt goes; it is there {count} times."
        )


class Chat:
    """A tokenizer, its chat template and an instruction: one user turn, then the model's turn.

    There is no system turn, as some templates refuse one. A tokenizer without a pad token pads with its end token, as
    padding is always masked.

    The instruction has ``{prompt}`` in it. ``max_tokens`` is the longest user turn, with the template around it;
    ``end_ids`` are further tokens that end the model's turn.

    Raises:
        ValueError: If the tokenizer has no chat template, or nothing can end a completion.
    """

    def __init__(self, tokenizer: Any, instruction: str, max_tokens: int, end_ids: Sequence[int] = ()) -> None:
        if tokenizer.chat_template is None:
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; take a model that was trained to "
                "chat, or save a template beside it as chat_template.jinja."
            )
        own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self.end_ids = sorted({*own, *end_ids})
        """Tokens that end a completion."""
        if not self.end_ids:
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no eos_token, so no completion would end."
            )
        self.tokenizer = tokenizer
        self.instruction = instruction
        self.max_tokens = max_tokens
        self.pad_id = self.end_ids[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        """Token that pads rows."""
        self.special = [token for token in tokenizer.all_special_tokens if token and token not in TAGS]
        """Special tokens, which neither a prompt nor an answer may contain."""
        # Some templates of thinking models open the think block themselves.
        self._opening = TAGS[0] if self._render("").rstrip().endswith(TAGS[0]) else ""

    def encode(self, prompt: str) -> list[int] | None:
        """Return a prompt's tokens up to the model's turn, none special; None if empty or over ``max_tokens``."""
        cleaned = clean(prompt, self.special)
        if not cleaned:
            return None
        tokens = self.tokenizer(self._render(cleaned), add_special_tokens=False)["input_ids"]
        return tokens if len(tokens) <= self.max_tokens else None

    def decode(self, tokens: Sequence[int]) -> str:
        """Return a completion's text, with the template's opening tag; special tokens stay and break the format."""
        return self._opening + self.tokenizer.decode(tokens, **AS_WRITTEN)

    def _render(self, prompt: str) -> str:
        message = {"role": "user", "content": self.instruction.replace(PLACEHOLDER, prompt)}
        return self.tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
