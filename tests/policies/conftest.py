"""Tiny random models in their own formats: one function for each backbone, named ``write_<module of the backbone>``."""

import string
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from realgen.functional.flow_sde import FlowSDE
from realgen.policies import DiffusionPolicy, LoRA, RandomWindow
from realgen.policies.backbones import SD3

SIZE = 16
TOKENS = 24


def clip_tokenizer():
    """Byte-level BPE without merges: one token per letter, closed by a form of its own at the end of a word."""
    from transformers import CLIPTokenizer

    letters = string.ascii_lowercase + string.digits + string.punctuation
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=TOKENS)


def clip_text_encoder(vocab_size: int):
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=32,
        projection_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return CLIPTextModelWithProjection(config)


def sd3_pipeline(**scheduler):
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

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
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.7,
        shift_factor=0.1,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **scheduler}),
        vae=vae,
        text_encoder=clip_text_encoder(len(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=clip_text_encoder(len(tokenizer)),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )


def write_sd3(directory: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = sd3_pipeline()
    with torch.no_grad():  # a fresh transformer answers so weakly to text and time that mistakes there would not show
        for parameter in pipeline.transformer.parameters():
            parameter.mul_(1.5)
    pipeline.save_pretrained(directory)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Directory of a tiny random model of a backbone, given the backbone's module, such as ``sd3``."""

    @cache
    def write(module: str) -> str:
        if f"write_{module}" not in globals():
            pytest.fail(
                f"tests/policies/conftest.py lacks write_{module}(directory), a tiny model to test {module} with."
            )
        directory = tmp_path_factory.mktemp(module)
        globals()[f"write_{module}"](directory)
        return str(directory)

    return write


@pytest.fixture(scope="session")
def sd3(tiny: Callable[[str], str]) -> str:
    """Directory of a tiny random ``StableDiffusion3Pipeline``."""
    return tiny("sd3")


@pytest.fixture
def stock(sd3: str) -> Any:
    """The plain diffusers pipeline of the same directory."""
    from diffusers import StableDiffusion3Pipeline

    pipeline = StableDiffusion3Pipeline.from_pretrained(sd3, text_encoder_3=None, tokenizer_3=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def make_policy(sd3: str) -> Callable[..., DiffusionPolicy]:
    """Builds a loaded policy on the tiny model; settings override those of a run that shares noise and has guidance."""

    def make(*, guidance_scale: float = 3.0, load: bool = True, **settings: Any) -> DiffusionPolicy:
        backbone = SD3(sd3, guidance_scale=guidance_scale, max_sequence_length=4)
        defaults = {
            "transition": FlowSDE(0.7),
            "step_window": RandomWindow(2),
            "num_steps": 5,
            "height": SIZE,
            "width": SIZE,
            "lora": LoRA(rank=4, alpha=8.0),
        }
        policy = DiffusionPolicy(backbone, **{**defaults, **settings})
        if load:
            policy.load()
        return policy

    return make


@pytest.fixture
def stir() -> Callable[[DiffusionPolicy], None]:
    """Moves the trained weights away from the reference, as training would."""

    def stir(policy: DiffusionPolicy, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in policy.trainable_parameters().values():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)

    return stir


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a tiny random Qwen3 with tokenizer and chat template; one token of eight ends a completion."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from realgen.nano.llm import build_tokenizer

    tokenizer = build_tokenizer()
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(7, len(tokenizer), 8)]
    directory = tmp_path_factory.mktemp("llm")
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


@pytest.fixture
def make_rewriter(tiny_llm: str) -> Callable[..., Any]:
    """Builds a loaded ``PromptPolicy`` on the tiny model; settings override short ones."""
    from realgen.policies import PromptPolicy

    def make(pretrained: str = tiny_llm, **settings: Any) -> PromptPolicy:
        defaults = {
            "instruction": "{prompt}",
            "max_prompt_tokens": 64,
            "max_tokens": 10,
            "lora": LoRA(rank=4, alpha=8.0),
        }
        policy = PromptPolicy(pretrained, **{**defaults, **settings})
        policy.load()
        return policy

    return make
