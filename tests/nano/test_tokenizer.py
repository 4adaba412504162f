"""The tokenizer gives back what it was given, also what it was not trained on."""

import json
import subprocess
import sys

import numpy as np
import pytest

from experiments.nano.captions import PHOTO_CUES, SYNTHETIC_CUES, cued_caption, split_prompts
from experiments.nano.photographs import SUBJECTS
from experiments.nano.tokenizer import MAX_TOKENS, build_tokenizer

PROMPTS = [prompt for prompts in split_prompts() for _, prompt in prompts]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def model(tokenizer):
    """Vocabulary and merges, without the padding and cutting of the last call."""
    return json.loads(tokenizer.backend_tokenizer.to_str())["model"]


def squeezed(text):
    """CLIP's tokenizer keeps words, not the blanks around them."""
    return "".join(text.split())


def test_captions_come_back_and_fit(tokenizer):
    texts = [*PROMPTS[::7], ", ".join(["a cat", *PHOTO_CUES[:3]]), "a cat, " + SYNTHETIC_CUES[2]]
    ids = tokenizer(texts).input_ids
    decoded = [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    pairs = zip(decoded, texts, strict=True)
    assert [(back, text) for back, text in pairs if squeezed(back) != squeezed(text)] == []
    assert [(len(row), text) for row, text in zip(ids, texts, strict=True) if len(row) > MAX_TOKENS] == []


def test_plain_prompts_fit_and_nearly_all_others(tokenizer):
    assert max(map(len, tokenizer(PROMPTS).input_ids)) < MAX_TOKENS
    rng = np.random.default_rng(0)
    captions = [
        cued_caption(SUBJECTS[n % len(SUBJECTS)], rng, PHOTO_CUES if n % 3 else SYNTHETIC_CUES) for n in range(1000)
    ]
    assert sum(len(ids) > MAX_TOKENS for ids in tokenizer(captions).input_ids) <= 5


@pytest.mark.parametrize("text", ["zürich", "日本語", "a 🚀 at night", "qwxzj", "3.14 = π?", "x"])
def test_unknown_text_splits_into_bytes(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(ids)
    assert squeezed(tokenizer.decode(ids)) == squeezed(text)


def test_captions_are_framed_padded_and_cut(tokenizer):
    ids = tokenizer("a cat", padding="max_length", max_length=MAX_TOKENS).input_ids
    assert len(ids) == MAX_TOKENS
    assert ids[0] == tokenizer.bos_token_id
    assert ids[3:] == [tokenizer.eos_token_id] * (MAX_TOKENS - 3)  # start, "a", "cat", end
    cut = tokenizer("a cat " * 50, truncation=True).input_ids
    assert len(cut) == MAX_TOKENS
    assert cut[-1] == tokenizer.eos_token_id


def test_training_is_deterministic_and_survives_saving(tokenizer, tmp_path):
    from transformers import CLIPTokenizer

    again = build_tokenizer()
    assert again.get_vocab() == tokenizer.get_vocab()
    assert model(again) == model(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    assert all(loaded(prompt).input_ids == tokenizer(prompt).input_ids for prompt in PROMPTS[::11])
    assert loaded.model_max_length == MAX_TOKENS


def test_another_process_trains_the_same_one(tokenizer):
    """A killed training goes on in a new process, whose hash tables are in another order."""
    code = "from experiments.nano.tokenizer import build_tokenizer; print(build_tokenizer().backend_tokenizer.to_str())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert json.loads(answer.stdout)["model"] == model(tokenizer)


def test_known_words_are_short(tokenizer):
    assert len(tokenizer("astronaut", add_special_tokens=False).input_ids) == 1
    assert len(tokenizer("an astronaut, film grain", add_special_tokens=False).input_ids) == 5
