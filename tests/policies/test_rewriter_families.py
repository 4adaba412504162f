"""Newer language models as rewriters: a tiny random one of each family, with its family's kind of chat template."""

import pytest
import torch
from transformers import (
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
)

from realgen.policies.chat import Chat
from realgen.policies.language_model import linear_layers

TURNS = "{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor -%}"
OPEN = "{{ '<|im_start|>assistant\n<think>\n' }}"
CLOSED = "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}"
SWITCHED = (
    f"{TURNS}{{%- if enable_thinking is defined and not enable_thinking -%}}{CLOSED}{{%- else -%}}{OPEN}{{%- endif -%}}"
)
"""Qwen3.5's way: the template opens the thoughts, or closes them where they are switched off."""
NO_SYSTEM = (
    "{%- for m in messages -%}{%- if m.role == 'system' -%}{{ raise_exception('System role not supported') }}"
    "{%- endif -%}{{ '<start_of_turn>' + m.role + '\n' + m.content | trim + '<end_of_turn>\n' }}{%- endfor -%}"
    "{{ '<start_of_turn>model\n' }}"
)
"""Gemma's way: other marks of a turn, and no system turn."""
TEMPLATES = {"qwen3_5": SWITCHED, "gemma3_text": NO_SYSTEM, "gemma3": NO_SYSTEM}


def build(family, tokenizer):
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "patch_size": 4}
    if family == "qwen3_5":
        linear = {f"linear_{name}": 2 for name in ("num_key_heads", "num_value_heads")}
        linear |= {f"linear_{name}": 8 for name in ("key_head_dim", "value_head_dim")}
        text |= {"layer_types": ["linear_attention", "full_attention"], **linear}
        vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
        return Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text, vision_config=vision))
    text |= {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
    if family == "gemma3_text":
        return Gemma3ForCausalLM(Gemma3TextConfig(**text))
    vision |= {"image_size": 16, "num_hidden_layers": 1}
    return Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4))


@pytest.fixture(params=TEMPLATES)
def family(request):
    return request.param


@pytest.fixture
def folder(family, tiny_llm, tmp_path):
    """A random model in the format in which the family is published: Qwen3.5 with its tower for images, say."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    tokenizer.chat_template = TEMPLATES[family]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(family, tokenizer)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(7, len(tokenizer), 8)]
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return str(tmp_path)


def test_it_rewrites_and_is_trained(family, folder, make_rewriter):
    """Rows of many lengths: padding on the left when sampled, on the right when scored, must change nothing."""
    policy = make_rewriter(folder, gradient_checkpointing=True)
    prompts = ["a cat", "a photo of the moon over a town by the sea"]
    rollout = next(policy.rollout_chunks(prompts, 3, generator=torch.Generator().manual_seed(0)))
    assert len(set(rollout.mask.sum(1).tolist())) > 1
    scored = policy.score(rollout, torch.arange(6))
    assert torch.equal(scored.log_probs[rollout.mask], rollout.sampled.log_probs[rollout.mask])
    written = rollout.policy_state["sampler_log_probs"]
    torch.testing.assert_close(written[rollout.mask], scored.log_probs.detach()[rollout.mask], atol=1e-4, rtol=0)
    scored.log_probs[rollout.mask].sum().backward()
    adapted = policy.trainable_parameters()
    assert {name.split(".")[-4] for name in adapted} >= {"q_proj", "down_proj"}
    assert [name for name, parameter in adapted.items() if parameter.grad is None] == []
    assert all(rewrite.completion.startswith("<think>") == (family == "qwen3_5") for rewrite in rollout.rewrites)


def test_a_tower_for_images_is_not_adapted(tiny_llm):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    names = linear_layers(build("gemma3", tokenizer))
    assert "model.language_model.layers.0.self_attn.q_proj" in names
    assert len(names) == 2 * 7
    assert [name for name in names if "vision" in name] == []


def test_thoughts_that_the_template_closed_are_written_anew(tiny_llm):
    """As where thinking is off by default: the instruction asks for thoughts, and they are the completion's own."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    tokenizer.chat_template = TURNS + CLOSED
    written = "<think>grain</think><answer>a cat</answer>"
    assert Chat(tokenizer, "{prompt}", 64).decode(tokenizer(written)["input_ids"]) == written


def test_no_system_turn_is_asked_for(tiny_llm):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    tokenizer.chat_template = NO_SYSTEM
    text = tokenizer.decode(Chat(tokenizer, "{prompt}", 64).encode("a cat"))
    assert "user" in text
    assert text.replace("\n", "").endswith("<start_of_turn>model")
    assert "a cat" in text
