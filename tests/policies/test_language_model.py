"""What PromptPolicy asks of any causal language model; loading is tested with the policy."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from realgen.policies import LoRA
from realgen.policies.language_model import checkpointed_layers, end_token_ids, linear_layers, load_language_model


@pytest.fixture
def llama():
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        eos_token_id=[3, 5],
    )
    return LlamaForCausalLM(config).eval()


def test_all_linear_layers_but_the_head_are_adapted(llama):
    names = linear_layers(llama)
    assert names == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    LoRA(rank=2).attach(llama, names)
    assert "lora" not in str(llama.lm_head)


def test_a_missing_hub_id_has_its_command():
    with pytest.raises(ValueError, match=r"'nobody/nothing' .*Fetch it with `hf download nobody/nothing`; .* its size"):
        load_language_model("nobody/nothing", torch.float32, local_files_only=True)


def test_ends_come_from_the_generation_config(llama):
    assert end_token_ids(llama) == [3, 5]
    llama.generation_config.eos_token_id = 7
    assert end_token_ids(llama) == [7]
    llama.generation_config.eos_token_id = None
    assert end_token_ids(llama) == []
    assert end_token_ids(torch.nn.Linear(1, 1)) == []


def test_a_model_of_another_kind_has_ends_too():
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=8, n_layer=1, n_head=1, eos_token_id=9))
    assert end_token_ids(gpt2) == [9]


def test_only_layers_that_recompute_are_switched(llama):
    with checkpointed_layers(llama):
        assert not any(part.training for part in llama.modules())
    llama.activation_checkpointing_enable()
    with checkpointed_layers(llama):
        assert all(layer.training for layer in llama.model.layers)
        assert not any(part.training for layer in llama.model.layers for part in layer.children())
    assert not any(part.training for part in llama.modules())
