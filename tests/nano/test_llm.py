"""Training of the nano language model: its batches and its loss by hand, its figures on a model that is a rule."""

import json
import math
from itertools import islice
from pathlib import Path

import pytest
import torch

from experiments.nano import llm
from experiments.nano.captions import split_prompts
from experiments.nano.llm import (
    POOL,
    build_model,
    build_tokenizer,
    completion_loss,
    draw_batches,
    evaluate_llm,
    main,
    make_llm,
)
from experiments.nano.rewrites import UNSEEN_PROMPTS
from realgen.policies.chat import TAGS, parse_answer
from realgen.types import Rewrite


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_tokenizer_is_the_same_every_time_and_reads_everything(tokenizer):
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()
    assert len(tokenizer) == llm.VOCABULARY_SIZE
    for text in ("a cat, film grain", "кот 猫 🐈\n\t", "<think>a</think><answer>b</answer>"):
        assert tokenizer.decode(tokenizer(text)["input_ids"], clean_up_tokenization_spaces=False) == text
    assert all(len(tokenizer(tag)["input_ids"]) == 1 for tag in TAGS)
    assert not set(TAGS) & set(tokenizer.all_special_tokens)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_batches_ask_and_teach_the_answer_alone(tokenizer):
    for tokens, targets in islice(draw_batches(tokenizer, 4, seed=0), 3):
        assert tokens.shape == targets.shape == (4, tokens.shape[1])
        for row, target in zip(tokens, targets, strict=True):
            taught = target != -100
            assert torch.equal(row[taught], target[taught])
            first, last = taught.nonzero().flatten()[[0, -1]].tolist()
            assert bool(taught[first : last + 1].all())
            asked = tokenizer.decode(row[:first])
            prompt = asked.removeprefix("<|im_start|>user\n").removesuffix("<|im_end|>\n<|im_start|>assistant\n")
            answer = parse_answer(tokenizer.decode(row[first:last], clean_up_tokenization_spaces=False))
            assert answer.startswith(f"{prompt}, ")
            assert row[last] == tokenizer.eos_token_id
            assert bool((row[last + 1 :] == tokenizer.pad_token_id).all())


def test_a_resumed_run_sees_the_same_batches(tokenizer):
    whole = list(islice(draw_batches(tokenizer, 2, seed=1), POOL + 4))
    for start in (3, POOL, POOL + 2):
        resumed = islice(draw_batches(tokenizer, 2, seed=1, first_step=start), POOL + 4 - start)
        for (tokens, targets), (expected, expected_targets) in zip(resumed, whole[start:], strict=True):
            assert torch.equal(tokens, expected)
            assert torch.equal(targets, expected_targets)


def test_loss_is_that_of_the_next_taught_token():
    logits = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0], [9.0, 9.0]]])
    assert completion_loss(logits, torch.tensor([[-100, 1, 0]])).item() == pytest.approx(
        (math.log(2) - math.log(3 / 4)) / 2, abs=1e-6
    )
    assert completion_loss(logits, torch.tensor([[1, -100, 0]])).item() == pytest.approx(-math.log(3 / 4), abs=1e-6)


def test_the_model_is_small(tokenizer):
    assert sum(parameter.numel() for parameter in build_model(tokenizer).parameters()) < 0.5e6


def test_figures_by_hand(monkeypatch, tmp_path: Path):
    """Rewrites that differ by the number of their row: every fourth breaks the format, every fourth the prompt."""

    class Rule:
        def __init__(self, *arguments, **settings) -> None:
            pass

        def load(self) -> None:
            pass

        def rollout(self, prompts, group_size, *, generator):
            rows = [prompt for prompt in prompts for _ in range(group_size)]
            texts = [
                (prompt, f"{prompt}, film grain", f"{prompt}, digital art", "a dog")[row % 4]
                for row, prompt in enumerate(rows)
            ]
            rewrites = tuple(Rewrite(text, "", row % 4 != 0, False, False) for row, text in enumerate(texts))
            return type("Made", (), {"row_prompts": rows, "rewrites": rewrites})()

    monkeypatch.setattr(llm, "PromptPolicy", Rule)
    rows = 4 * len(split_prompts()[1])
    assert evaluate_llm(tmp_path) == {
        "format_rate": 0.75,
        "content_kept": 0.5,
        "photo_cues": 0.25,
        "synthetic_cues": 0.25,
        "distinct_suffixes": 2 / rows,
        "format_rate_unseen": 0.75,
        "content_kept_unseen": 0.5,
    }
    assert len(UNSEEN_PROMPTS) >= 10


def test_a_few_steps_write_a_model_that_transformers_reads(monkeypatch, tmp_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setattr(llm, "evaluate_llm", lambda output: {"format_rate": 0.0})
    assert make_llm(tmp_path, steps=2, batch_size=2, seed=3) == {"format_rate": 0.0}
    assert json.loads((tmp_path / "figures.json").read_text()) == {"format_rate": 0.0}
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model.dtype == torch.float16
    assert model.generation_config.eos_token_id == AutoTokenizer.from_pretrained(tmp_path).eos_token_id
    assert not (tmp_path / "training.ckpt").exists()


def test_command_line_hands_on_its_arguments(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(llm, "make_llm", lambda **settings: seen.append(settings) or {"format_rate": 1.0})
    main(["--output", "there", "--steps", "7"])
    assert seen == [{"output": Path("there"), "steps": 7, "batch_size": llm.BATCH_SIZE, "seed": llm.SEED}]
    assert json.loads(capsys.readouterr().out) == {"format_rate": 1.0}


@pytest.fixture(scope="module")
def shipped(nano) -> Path:
    return nano / "llm"


def test_shipped_figures(shipped):
    figures = json.loads((shipped / "figures.json").read_text())
    assert figures["format_rate"] >= 0.95
    assert figures["content_kept"] >= 0.95
    assert figures["photo_cues"] >= 0.95
    assert figures["distinct_suffixes"] >= 0.2
    assert sum(path.stat().st_size for path in shipped.iterdir()) <= 3e6


@pytest.mark.slow
def test_shipped_model_is_as_good_as_its_figures(shipped):
    figures = json.loads((shipped / "figures.json").read_text())
    assert evaluate_llm(shipped) == pytest.approx(figures, abs=0.02)
