"""Newer vision-language models than Qwen2.5-VL, a tiny random one of each family, against plain transformers."""

import asyncio

import pytest
import torch
import transformers
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen2VLImageProcessor, Qwen3VLVideoProcessor

from experiments.nano.forensic_chat import CHAT_TEMPLATE, IMAGE, TURN_END, VIDEO, VISION_END, VISION_START
from experiments.nano.forensic_chat import build_tokenizer as build_nano_tokenizer
from realgen.detectors import ForensicChat
from realgen.judges import VlmJudge
from realgen.rewards import VlmRating
from realgen.rewards.vlm_rating import ANSWER, THINK

SWITCH = (
    "{%- if enable_thinking is defined and not enable_thinking -%}{{ '<think>\n\n</think>\n\n' }}"
    "{%- else -%}{{ '<think>\n' }}{%- endif -%}"
)
"""Qwen3.5's switch: thoughts are open unless they are switched off."""
TEMPLATES = {
    "Qwen3VL": CHAT_TEMPLATE,
    "Qwen3VLMoe": CHAT_TEMPLATE,
    "Qwen3_5": CHAT_TEMPLATE + SWITCH,
    "Qwen3_5Moe": CHAT_TEMPLATE + SWITCH,
}
CLOSED = "<think>\n\n</think>\n\n"


def build_processor(template):
    tokenizer = build_nano_tokenizer()
    tokenizer.add_tokens(["real", "Real", "fake", "Fake", "<think>", "</think>"])
    size = {"patch_size": 8, "min_pixels": 4096, "max_pixels": 4096}
    return transformers.Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**size),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**size),
        chat_template=template,
    )


def build_model(family, tokenizer):
    token = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "initializer_range": 0.3,
        "eos_token_id": token(TURN_END),
        "pad_token_id": tokenizer.pad_token_id,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]},
    }
    if family.endswith("Moe"):
        text |= {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
    if family.startswith("Qwen3_5"):
        text |= {f"linear_{name}": 2 for name in ("num_key_heads", "num_value_heads")}
        text |= {f"linear_{name}": 8 for name in ("key_head_dim", "value_head_dim")}
        text |= {"layer_types": ["linear_attention", "full_attention"], "shared_expert_intermediate_size": 16}
        text["rope_parameters"] |= {"partial_rotary_factor": 1.0}
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": 8,
        "out_hidden_size": 32,
        "num_position_embeddings": 64,
        "initializer_range": 0.3,
    }
    if family.startswith("Qwen3VL"):
        vision["deepstack_visual_indexes"] = [0, 1]
    ids = {"image": IMAGE, "video": VIDEO, "vision_start": VISION_START, "vision_end": VISION_END}
    config = getattr(transformers, f"{family}Config")(
        text_config=text, vision_config=vision, **{f"{name}_token_id": token(tag) for name, tag in ids.items()}
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, f"{family}ForConditionalGeneration")(config).eval()


@pytest.fixture(params=TEMPLATES)
def family(request):
    return request.param


@pytest.fixture
def folder(family, tmp_path):
    processor = build_processor(TEMPLATES[family])
    build_model(family, processor.tokenizer).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.fixture
def pictures():
    return torch.randint(0, 256, (2, 3, 40, 48), generator=torch.Generator().manual_seed(0)).float() / 255


@torch.no_grad()
def plain(folder, text, images, new=6):
    """Logits and completion of a conversation given as text, by transformers' Auto classes from 8-bit arrays."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(folder)
    arrays = [(image * 255).round().byte().permute(1, 2, 0).numpy() for image in images]
    encoded = processor(text=[text], images=arrays, return_tensors="pt")
    written = model.generate(**encoded, max_new_tokens=new, do_sample=False)
    reply = processor.decode(written[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
    return model(**encoded).logits[0, -1], reply, processor.tokenizer


def turn(content):
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    return f"{system}<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"


IMAGE_TAGS = f"{VISION_START}{IMAGE}{VISION_END}"


def test_its_first_word_its_rating_and_its_verdict_are_those_of_plain_transformers(family, folder, pictures):
    closed = CLOSED if "enable_thinking" in TEMPLATES[family] else ""
    text = turn(f"{IMAGE_TAGS}real or fake?") + closed
    for image, p_fake in zip(pictures, ForensicChat(folder, "real or fake?", dtype="float32")(pictures), strict=True):
        logits, _, tokenizer = plain(folder, text, [image], new=1)
        real, fake = (
            logits[tokenizer.convert_tokens_to_ids(words)].mean() for words in (["real", "Real"], ["fake", "Fake"])
        )
        torch.testing.assert_close(p_fake, (fake - real).sigmoid(), atol=1e-4, rtol=0)

    rating = VlmRating(folder, question="From 1 to 5?", max_new_tokens=6, dtype="float32", batch_size=2)
    _, reply, _ = plain(folder, turn(f"{IMAGE_TAGS}From 1 to 5? {ANSWER}") + closed, pictures[1:])
    assert rating.network(pictures, ["", ""])[1] == reply != ""

    judge = VlmJudge(folder, single_question="Is it?", max_new_tokens=6, dtype="float32")
    lines = judge.questions.text("single", "lines")
    _, reply, _ = plain(folder, turn(f"{lines}{IMAGE_TAGS}") + closed, pictures[:1])
    assert asyncio.run(judge.judge_single(pictures[0], "")).reply == reply


def test_thoughts_that_the_template_opens_belong_to_the_answer(tmp_path, pictures):
    """Cut off inside them, an answer has one number, which is no rating."""
    processor = build_processor(TEMPLATES["Qwen3_5"])
    build_model("Qwen3_5", processor.tokenizer).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    network = VlmRating(str(tmp_path), thinking=True, max_new_tokens=4, dtype="float32").network
    assert network.prompt.endswith(f"{THINK}{TURN_END}\n<|im_start|>assistant\n<think>\n")
    assert network(pictures, ["", ""])[0].startswith("<think>")


def test_a_template_that_always_thinks_has_no_first_word(tmp_path):
    processor = build_processor(CHAT_TEMPLATE + "{{ '<think>\n' }}")
    build_model("Qwen3VL", processor.tokenizer).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="template opens thoughts that no switch closes"):
        ForensicChat(str(tmp_path), dtype="float32").to("cpu")
