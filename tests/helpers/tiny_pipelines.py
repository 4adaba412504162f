"""Tiny random pipelines in the formats of the big ones, one for each backbone; nothing is downloaded.

A new backbone adds an entry to ``TINY`` under the name of its module, and with that joins every test of backbones.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from realgen.policies import backbones
from realgen.policies.backbones import Backbone
from tests.helpers import tiny_newer
from tests.helpers.tiny_parts import (
    clip_text_encoder,
    clip_tokenizer,
    image_vae,
    patched_vae,
    qwen3_settings,
    qwen_tokenizer,
    scheduler,
    t5_tokenizer,
    video_vae,
)

SIZE = 16
"""Height and width of images that every one of them can draw."""


@dataclass(frozen=True)
class TinyModel:
    """A tiny model, and what the tests must know of its kind.

    Settings are those of the backbone's constructor and, under the same names, of the pipeline's call.
    """

    build: Callable[[], Any]
    """Makes the pipeline from random numbers."""
    settings: Mapping[str, Any]
    """Without guidance."""
    guided: Mapping[str, Any]
    """With it, its scale first."""
    plain_scale: float = 1.0
    """The guidance's scale with which the pipeline does without."""
    fewest_steps: int = 1
    without_gradient: tuple[str, ...] = ()
    """Ends of the names of parameters that the architecture itself never uses."""
    call: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the pipeline's call alone."""
    stock_guides: bool = True
    """Whether the pipeline has the guidance, too."""
    before: str = ""
    """What every prompt is embedded after, but not the negative one."""
    boost: float = 1.5
    """A fresh transformer answers so weakly to text and time that mistakes there would not show."""


def write(module: str, directory: Path) -> None:
    """Write the tiny model of a backbone's module, such as ``sd3``, as a pipeline's directory."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = TINY[module].build()
        with torch.no_grad():
            for parameter in pipeline.transformer.parameters():
                parameter.mul_(TINY[module].boost)
    pipeline.save_pretrained(directory)


def write_sd3(directory: Path) -> None:
    """The one that most tests of the policy use."""
    write("sd3", directory)


def backbone_classes() -> list[type[Backbone]]:
    """Every backbone that there is, found by walking its package."""
    found = set()
    for module in pkgutil.walk_packages(backbones.__path__, f"{backbones.__name__}."):
        for _, member in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(member, Backbone) and not inspect.isabstract(member) and member.__module__ == module.name:
                found.add(member)
    return sorted(found, key=lambda member: member.__name__)


def module_of(backbone: type[Backbone]) -> str:
    """Last part of the name of its module, such as ``sd3``."""
    return backbone.__module__.rpartition(".")[2]


def read_stock(directory: str) -> Any:
    """The plain pipeline of a directory, silent."""
    from diffusers import DiffusionPipeline

    index = DiffusionPipeline.load_config(directory)
    absent = {name: None for name, entry in index.items() if isinstance(entry, list) and entry[0] is None}
    pipeline = DiffusionPipeline.from_pretrained(directory, **absent)
    pipeline.set_progress_bar_config(disable=True)
    if type(pipeline).__name__ == "HiDreamImagePipeline":  # it draws no other area than that of its default size
        pipeline.default_sample_size = SIZE // pipeline.vae_scale_factor
    return pipeline


def sd3_pipeline(dual_attention_layers: tuple[int, ...] = (), qk_norm: str | None = None) -> Any:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    tokenizer = clip_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
        dual_attention_layers=dual_attention_layers,
        qk_norm=qk_norm,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=scheduler(shift=3.0),
        vae=image_vae(),
        text_encoder=clip_text_encoder(len(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=clip_text_encoder(len(tokenizer)),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )


def flux_pipeline(guidance_embeds: bool = True) -> Any:
    from diffusers import FluxPipeline, FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    tokenizer, letters = clip_tokenizer(), t5_tokenizer()
    t5 = T5Config(vocab_size=len(letters), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )
    return FluxPipeline(
        transformer=transformer,
        scheduler=scheduler(use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64),
        vae=image_vae(),
        text_encoder=clip_text_encoder(len(tokenizer), "CLIPTextModel"),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=letters,
    )


def z_image_pipeline() -> Any:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Model

    tokenizer = qwen_tokenizer()
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 6, 6],
        axes_lens=[600, 32, 32],
    )
    return ZImagePipeline(
        transformer=transformer,
        scheduler=scheduler(shift=3.0),
        vae=image_vae(),
        text_encoder=Qwen3Model(qwen3_settings(tokenizer)),
        tokenizer=tokenizer,
    )


def qwen_image_pipeline() -> Any:
    from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = qwen_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "initializer_range": 0.2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]},
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
    )
    return QwenImagePipeline(
        transformer=transformer,
        scheduler=scheduler(use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64, shift_terminal=0.02),
        vae=video_vae(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)),
        tokenizer=tokenizer,
    )


def flux2_klein_pipeline(is_distilled: bool = False) -> Any:
    from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel
    from transformers import Qwen3ForCausalLM

    tokenizer = qwen_tokenizer()
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    config = qwen3_settings(tokenizer, hidden_size=8, intermediate_size=8, head_dim=4)
    return Flux2KleinPipeline(
        transformer=transformer,
        scheduler=scheduler(use_dynamic_shifting=True),
        vae=patched_vae(),
        text_encoder=Qwen3ForCausalLM(config),
        tokenizer=tokenizer,
        is_distilled=is_distilled,
    )


TINY: dict[str, TinyModel] = {
    "sd3": TinyModel(
        sd3_pipeline,
        settings={"max_sequence_length": 8},
        guided={"guidance_scale": 2.5, "negative_prompt": "blur", "max_sequence_length": 8},
    ),
    "flux": TinyModel(
        flux_pipeline,
        settings={"guidance_scale": 3.5, "max_sequence_length": 32},
        guided={"true_cfg_scale": 2.5, "negative_prompt": "blur", "guidance_scale": 3.5, "max_sequence_length": 32},
    ),
    "z_image": TinyModel(
        z_image_pipeline,
        settings={"max_sequence_length": 128},
        guided={"guidance_scale": 1.5, "negative_prompt": "blur", "max_sequence_length": 128},
        plain_scale=0.0,
    ),
    "qwen_image": TinyModel(
        qwen_image_pipeline,
        settings={"max_sequence_length": 1024},
        guided={"true_cfg_scale": 2.5, "negative_prompt": "blur", "max_sequence_length": 1024},
        fewest_steps=2,
        without_gradient=(
            "transformer_blocks.1.attn.to_add_out.weight",
            "transformer_blocks.1.attn.to_add_out.bias",
            *(f"transformer_blocks.1.txt_mlp.net.{layer}" for layer in ("0.proj.weight", "0.proj.bias")),
            *(f"transformer_blocks.1.txt_mlp.net.{layer}" for layer in ("2.weight", "2.bias")),
        ),
    ),
    "flux2_klein": TinyModel(
        flux2_klein_pipeline,
        settings={"max_sequence_length": 64, "text_encoder_out_layers": (1, 2, 3)},
        guided={"guidance_scale": 2.5, "max_sequence_length": 64, "text_encoder_out_layers": (1, 2, 3)},
    ),
    "flux2": TinyModel(
        tiny_newer.flux2_pipeline,
        settings={"max_sequence_length": 256, "text_encoder_out_layers": (1, 2)},
        guided={
            "cfg_scale": 2.5,
            "negative_prompt": "blur",
            "max_sequence_length": 256,
            "text_encoder_out_layers": (1, 2),
        },
        stock_guides=False,
    ),
    "chroma": TinyModel(
        tiny_newer.chroma_pipeline,
        settings={"max_sequence_length": 32},
        guided={"guidance_scale": 2.5, "negative_prompt": "blur", "max_sequence_length": 32},
    ),
    "krea2": TinyModel(
        tiny_newer.krea2_pipeline,
        settings={"max_sequence_length": 256},
        guided={"guidance_scale": 1.5, "negative_prompt": "blur", "max_sequence_length": 256},
        plain_scale=0.0,
    ),
    "lumina2": TinyModel(
        tiny_newer.lumina2_pipeline,
        settings={"max_sequence_length": 64, "system_prompt": "draw"},
        guided={
            "guidance_scale": 2.5,
            "negative_prompt": "blur",
            "max_sequence_length": 64,
            "system_prompt": "draw",
        },
        before="draw <Prompt Start> ",
    ),
    "hidream": TinyModel(
        tiny_newer.hidream_pipeline,
        settings={"max_sequence_length": 24},
        guided={"guidance_scale": 2.5, "negative_prompt": "blur", "max_sequence_length": 24},
        boost=1.25,
    ),
    "ernie_image": TinyModel(
        tiny_newer.ernie_image_pipeline,
        settings={},
        guided={"guidance_scale": 2.5, "negative_prompt": "blur"},
    ),
}
"""By the name of the backbone's module."""
