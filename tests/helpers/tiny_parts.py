"""Parts of tiny random pipelines: tokenizers, text encoders, VAEs and schedulers."""

from __future__ import annotations

import string
from typing import Any

from torch import nn

CLIP_TOKENS = 24


def clip_tokenizer() -> Any:
    """Byte-level BPE without merges: one token per letter, closed by a form of its own at the end of a word."""
    from transformers import CLIPTokenizer

    letters = string.ascii_lowercase + string.digits + string.punctuation
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=CLIP_TOKENS)


def t5_tokenizer() -> Any:
    """One token per letter, and an end."""
    from transformers import T5Tokenizer

    letters = "▁" + string.ascii_lowercase + string.digits + string.punctuation
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -2.0) for letter in letters)]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=512)


def qwen_tokenizer(*more: str) -> Any:
    """One token per byte, with a chat template; ``more`` are special tokens."""
    from tokenizers import pre_tokenizers
    from transformers import Qwen2Tokenizer

    from experiments.nano.llm import CHAT_TEMPLATE, END, TURN_END, TURN_START

    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), END]
    tokenizer = Qwen2Tokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[],
        extra_special_tokens=[TURN_START, TURN_END, *more],
        eos_token=TURN_END,
        pad_token=END,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def clip_text_encoder(vocab_size: int, kind: str = "CLIPTextModelWithProjection") -> Any:
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=32,
        projection_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CLIP_TOKENS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return getattr(transformers, kind)(config)


def qwen3_settings(tokenizer: Any, **settings: Any) -> Any:
    from transformers import Qwen3Config

    defaults = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "initializer_range": 0.2,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return Qwen3Config(**{**defaults, **settings})


def gemma_tokenizer() -> Any:
    """One token per letter, and a beginning."""
    from tokenizers.processors import TemplateProcessing
    from transformers import GemmaTokenizer

    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *string.ascii_letters, *string.digits]
    tokenizer = GemmaTokenizer(vocab={token: i for i, token in enumerate([*tokens, *string.punctuation])}, merges=[])
    beginning = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", tokens.index("<bos>"))])
    tokenizer.backend_tokenizer.post_processor = beginning
    return tokenizer


def gemma2_settings(tokenizer: Any) -> Any:
    from transformers import Gemma2Config

    return Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        initializer_range=0.2,
    )


def vae_settings(blocks: int = 2) -> dict[str, Any]:
    """Of a VAE that makes one latent pixel of 2 x 2, or of 2 to the power of (blocks - 1) in each direction."""
    return {
        "down_block_types": ("DownEncoderBlock2D",) * blocks,
        "up_block_types": ("UpDecoderBlock2D",) * blocks,
        "block_out_channels": (8,) * blocks,
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
    }


def image_vae(blocks: int = 2) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(**vae_settings(blocks), scaling_factor=0.7, shift_factor=0.1)


def scheduler(**settings: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**settings)


def video_vae() -> Any:
    from diffusers import AutoencoderKLQwenImage

    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.8, 1.2, 1.0],
    )


def patched_vae() -> Any:
    """One whose latents are scaled by a batch norm's statistics."""
    from diffusers import AutoencoderKLFlux2

    vae = AutoencoderKLFlux2(**vae_settings())
    nn.init.uniform_(vae.bn.running_mean, -0.5, 0.5)
    nn.init.uniform_(vae.bn.running_var, 0.5, 2.0)
    return vae
