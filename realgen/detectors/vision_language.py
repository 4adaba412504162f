"""Vision-language models of Qwen's line, from 2.5 on, and how they are asked."""

from typing import Any

import torch

from realgen.detectors.transformers_model import load_pretrained

OPENED = "<think>"
"""What a chat template ends with that lets the model think first; its end is the model's to write."""
GREEDY = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
"""Decoding that is the same every time, whatever the model's own config says."""


def load_vision_language(pretrained: str, dtype: torch.dtype, **settings: Any) -> Any:
    """Return a Qwen2.5-VL, Qwen3-VL or Qwen3.5 by its config; ValueError if it is none, see ``load_pretrained``."""
    import transformers  # seconds to import its models

    names = ("Qwen2_5_VL", "Qwen3VL", "Qwen3VLMoe", "Qwen3_5", "Qwen3_5Moe")
    kinds = tuple(getattr(transformers, f"{name}ForConditionalGeneration") for name in names)
    return load_pretrained(kinds, pretrained, dtype, **settings)


def render_question(processor: Any, content: list[dict[str, str]], *, thinking: bool = False, **switches: bool) -> str:
    """Return the conversation up to the answer; each image is one placeholder.

    There is one user turn, and the system turn that the template writes of itself, if any. ``thinking`` and
    ``switches`` are for templates that know them.
    """
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=processor.chat_template or processor.tokenizer.chat_template,
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=thinking,
        **switches,
    )


def opened_thoughts(conversation: str) -> str:
    """Return the tag with which the template let the model begin to think, to put before its answer; empty if none."""
    return OPENED if conversation.rstrip().endswith(OPENED) else ""
