"""The tokenizer of the nano models: a CLIP byte-pair tokenizer trained on our own captions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from experiments.nano.captions import PHOTO_CUES, SYNTHETIC_CUES, plain_prompts
from experiments.nano.photographs import SUBJECTS

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

MAX_TOKENS = 24
"""Tokens of a caption, start and end included; the very few that are longer lose their end."""


def build_tokenizer(vocab_size: int = 1024) -> CLIPTokenizer:
    """Train byte-pair merges on every caption; any other text still splits into bytes. Always the same one."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    start, end = "<|startoftext|>", "<|endoftext|>"
    frame = CLIPTokenizer().backend_tokenizer
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    trained.normalizer, trained.pre_tokenizer = frame.normalizer, frame.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        # The trainer numbers bytes that end a word as it meets them, in an order that changes from run to run, and only
        # those it meets. As special tokens they are all there, under the same numbers every time.
        special_tokens=[start, end, *(byte + "</w>" for byte in alphabet)],
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        continuing_subword_prefix="",
        show_progress=False,
    )
    captions = [prompt for subject in SUBJECTS for prompt in plain_prompts(subject)]
    trained.train_from_iterator(captions + [*PHOTO_CUES, *SYNTHETIC_CUES] * 20, trainer)
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    return CLIPTokenizer(vocab=trained.get_vocab(), merges=merges, model_max_length=MAX_TOKENS)
