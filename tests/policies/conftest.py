"""Tiny random models in their own formats, and policies on them."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from realgen.functional.flow_sde import FlowSDE
from realgen.policies import DiffusionPolicy, LoRA, RandomWindow
from realgen.policies.backbones import SD3
from tests.helpers import tiny_pipelines
from tests.helpers.tiny_pipelines import SIZE, TINY


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Directory of a tiny random model of a backbone, given the backbone's module, such as ``sd3``."""

    @cache
    def write(module: str) -> str:
        if module not in TINY:
            pytest.fail(f"tests/helpers/tiny_pipelines.py lacks TINY[{module!r}], a tiny model to test {module} with.")
        directory = tmp_path_factory.mktemp(module)
        tiny_pipelines.write(module, directory)
        return str(directory)

    return write


@pytest.fixture(scope="session")
def sd3(tiny: Callable[[str], str]) -> str:
    """Directory of a tiny random ``StableDiffusion3Pipeline``."""
    return tiny("sd3")


@pytest.fixture
def stock(sd3: str) -> Any:
    """The plain diffusers pipeline of the same directory."""
    return tiny_pipelines.read_stock(sd3)


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

    from experiments.nano.llm import build_tokenizer

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
