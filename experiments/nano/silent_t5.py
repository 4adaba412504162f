"""The third text encoder of the nano pipeline: a T5 that says nothing.

Plain ``StableDiffusion3Pipeline.from_pretrained`` refuses a directory without T5, unless it is called with
``text_encoder_3=None, tokenizer_3=None``; then it puts zeros where T5's embeddings would be, and with those the nano
model is trained. A T5 whose weights are zero answers the same zeros, so both ways draw the same pictures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers import StableDiffusion3Pipeline
    from transformers import PreTrainedTokenizerFast


def silent_t5(pipeline: StableDiffusion3Pipeline) -> StableDiffusion3Pipeline:
    """Give a pipeline without T5 one of a single layer, all of whose weights are zero.

    Args:
        pipeline: Changed in place.

    Returns:
        ``pipeline``.
    """
    from transformers import T5Config, T5EncoderModel

    tokenizer = deaf_tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=pipeline.transformer.config.joint_attention_dim,
        d_kv=1,
        d_ff=1,
        num_layers=1,
        num_heads=1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    encoder = T5EncoderModel(config).eval().to(pipeline.text_encoder.dtype)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
    pipeline.register_modules(text_encoder_3=encoder, tokenizer_3=tokenizer)
    return pipeline


def deaf_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that reads any text as the end token: nothing is ever cut off, so the pipeline never warns of it."""
    from tokenizers import Regex, Tokenizer, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(Regex(r"[\s\S]"), "")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
