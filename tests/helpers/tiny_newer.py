"""Tiny random pipelines of the models that came after FLUX.2-klein, for ``TINY`` in ``tiny_pipelines``."""

from __future__ import annotations

from typing import Any

from torch import nn

from tests.helpers.tiny_parts import (
    clip_text_encoder,
    clip_tokenizer,
    gemma2_settings,
    gemma_tokenizer,
    image_vae,
    patched_vae,
    qwen_tokenizer,
    scheduler,
    t5_tokenizer,
    video_vae,
)

PARTS_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: "
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}\n{% endfor %}"
)
"""A conversation whose messages are lists of parts."""


def mistral3_settings(tokenizer: Any, layers: int) -> Any:
    from transformers import Mistral3Config

    text = {
        "model_type": "mistral",
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "model_type": "pixtral",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
        "image_size": 28,
    }
    return Mistral3Config(text_config=text, vision_config=vision)


def flux2_pipeline() -> Any:
    from diffusers import Flux2Pipeline, Flux2Transformer2DModel
    from transformers import Mistral3ForConditionalGeneration, PixtralImageProcessor, PixtralProcessor

    tokenizer = qwen_tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    processor = PixtralProcessor(PixtralImageProcessor(), tokenizer, chat_template=PARTS_TEMPLATE)
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
    )
    return Flux2Pipeline(
        transformer=transformer,
        scheduler=scheduler(use_dynamic_shifting=True),
        vae=patched_vae(),
        text_encoder=Mistral3ForConditionalGeneration(mistral3_settings(tokenizer, 2)),
        tokenizer=processor,
    )


def chroma_pipeline() -> Any:
    from diffusers import ChromaPipeline, ChromaTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    letters = t5_tokenizer()
    t5 = T5Config(vocab_size=len(letters), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    transformer = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=16,
        approximator_hidden_dim=32,
        approximator_layers=1,
    )
    return ChromaPipeline(
        transformer=transformer,
        scheduler=scheduler(use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64),
        vae=image_vae(),
        text_encoder=T5EncoderModel(t5),
        tokenizer=letters,
    )


def krea2_pipeline(is_distilled: bool = False) -> Any:
    from diffusers import Krea2Pipeline, Krea2Transformer2DModel
    from transformers import Qwen3VLConfig, Qwen3VLModel

    tokenizer = qwen_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "initializer_range": 0.2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]},
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 16,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    transformer = Krea2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        timestep_embed_dim=16,
        text_hidden_dim=16,
        num_text_layers=2,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=32,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
    )
    return Krea2Pipeline(
        transformer=transformer,
        scheduler=scheduler(use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64),
        vae=video_vae(),
        text_encoder=Qwen3VLModel(Qwen3VLConfig(text_config=text, vision_config=vision)),
        tokenizer=tokenizer,
        text_encoder_select_layers=(1, 2),
        is_distilled=is_distilled,
    )


def ernie_image_pipeline() -> Any:
    from diffusers import ErnieImagePipeline, ErnieImageTransformer2DModel
    from transformers import Mistral3Model

    tokenizer = qwen_tokenizer()
    transformer = ErnieImageTransformer2DModel(
        hidden_size=32,
        num_attention_heads=2,
        num_layers=2,
        ffn_hidden_size=32,
        in_channels=16,
        out_channels=16,
        text_in_dim=16,
        rope_axes_dim=(4, 6, 6),
    )
    for layer in (transformer.adaLN_modulation[-1], transformer.final_linear):  # zeros, as training begins
        nn.init.normal_(layer.weight, std=0.2)
    return ErnieImagePipeline(
        transformer=transformer,
        scheduler=scheduler(shift=3.0),
        vae=patched_vae(),
        text_encoder=Mistral3Model(mistral3_settings(tokenizer, 2)),
        tokenizer=tokenizer,
    )


def lumina2_pipeline() -> Any:
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel
    from transformers import Gemma2Model

    tokenizer = gemma_tokenizer()
    transformer = Lumina2Transformer2DModel(
        sample_size=2,
        in_channels=4,
        hidden_size=48,  # a 48th of the published width, with as many queries to a key
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=6,
        num_kv_heads=2,
        multiple_of=8,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(300, 32, 32),
        cap_feat_dim=16,
    )
    return Lumina2Pipeline(
        transformer=transformer,
        scheduler=scheduler(use_dynamic_shifting=True, base_image_seq_len=2, max_image_seq_len=64),
        vae=image_vae(blocks=4),  # the pipeline takes its factor for 8
        text_encoder=Gemma2Model(gemma2_settings(tokenizer)),
        tokenizer=tokenizer,
    )


def hidream_pipeline() -> Any:
    from diffusers import HiDreamImagePipeline, HiDreamImageTransformer2DModel
    from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5EncoderModel

    clip, letters, llama = clip_tokenizer(), t5_tokenizer(), qwen_tokenizer()
    t5 = T5Config(vocab_size=len(letters), d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    config = LlamaConfig(
        vocab_size=len(llama),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=llama.eos_token_id,
    )
    transformer = HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_channels=[24, 16],
        text_emb_dim=32,
        axes_dims_rope=(8, 4, 4),
        max_resolution=(16, 16),
        llama_layers=[0, 1, 2, 2],
    )
    return HiDreamImagePipeline(
        transformer=transformer,
        scheduler=scheduler(use_dynamic_shifting=True),
        vae=image_vae(),
        text_encoder=clip_text_encoder(len(clip)),
        tokenizer=clip,
        text_encoder_2=clip_text_encoder(len(clip)),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=T5EncoderModel(t5),
        tokenizer_3=letters,
        text_encoder_4=LlamaForCausalLM(config),
        tokenizer_4=llama,
    )
