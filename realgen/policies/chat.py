"""Prompts as tokens of a chat model, and its completions as text: instruction, format of answers, cleaned prompts."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
"""Tags of a completion, each once and in this order."""

INSTRUCTION = """\
You rewrite prompts for an image generator so that the picture looks like a photograph that a person took.
First think, between <think> and </think>, about what would give this picture away as generated, and which light, \
lens, camera, grain and everyday flaws a real photograph of it would have. Then write the new prompt between <answer> \
and </answer>: keep every subject, number, colour and place that was asked for, invent no new subject, and describe \
the photograph in plain words. Write nothing after </answer>.

The prompt: {prompt}"""
"""The default instruction, for a language model that was not trained on another one."""

FORMAT = re.compile(r"\s*<think>.*</think>\s*<answer>(.*)</answer>\s*", re.DOTALL)
UNPRINTABLE = {"Cc", "Cn", "Co", "Cs"}
"""Unicode categories that are removed; format characters stay, as Persian and emoji need their joiners."""
BIDI_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
REPLACEMENT = "\ufffd"
"""The character to which invalid bytes decode."""
PLACEHOLDER = "{prompt}"
AS_WRITTEN = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}


def clean(text: str, forbidden: Sequence[str] = ()) -> str:
    r"""Return a text without control characters, half surrogates, direction overrides and ``forbidden`` strings.

    White space becomes single spaces, and so does a forbidden string, such as a tokenizer's special token.
    """
    for token in sorted(forbidden, key=len, reverse=True):
        text = text.replace(token, " ")
    kept = (" " if unicodedata.category(c) in UNPRINTABLE or c in BIDI_OVERRIDES else c for c in text)
    return " ".join("".join(kept).split())


def parse_answer(completion: str, forbidden: Sequence[str] = ()) -> str | None:
    """Return the answer of a completion in think/answer format with single spaces, None where the format is broken.

    It is broken if a tag is missing, repeated or out of order, if there is text outside the tags or a ``forbidden``
    string anywhere, or if the answer is empty or has an invalid character.
    """
    if any(completion.count(tag) != 1 for tag in TAGS):  # first, as the pattern is slow on thousands of tags
        return None
    if any(token in completion for token in forbidden):
        return None
    found = FORMAT.fullmatch(completion)
    if found is None:
        return None
    answer = " ".join(found.group(1).split())
    return answer if answer and answer == clean(answer, [REPLACEMENT]) else None


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
    ``end_ids`` are further tokens that end the model's turn. ValueError if the tokenizer has no chat template, or
    nothing can end a completion.
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
