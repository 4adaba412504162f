"""Prompts and completions that nobody should write, through all that reads them: rewriter, image policy, rewards.

What each part does with them is tested beside it (``test_chat.py``, ``test_completion.py``, ``test_text_reward.py``).
"""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
import torch

from realgen.functional.flow_sde import FlowSDE
from realgen.policies import DiffusionPolicy, LoRA, PromptPolicy, RandomWindow
from realgen.policies.backbones import SD3
from realgen.policies.rewriting import rewrite_statistics
from realgen.rewards import Alignment, ContentKept, LengthWindow, RewriteFormat, SuffixDiversity, WeightedSum
from realgen.types import Rollout

NANO = Path(__file__).resolve().parent.parent / "data" / "nano"
UNUSABLE = {
    "empty": "",
    "spaces": " \n\t",
    "control characters alone": "\x00\x07",
    "5,000 words": " ".join(["cat"] * 5000),
    "one word of 20,000 letters": "x" * 20_000,
}
"""The language model is not asked about these."""
ODD = {
    "control characters": "\x00\x1b[31ma cat\x7f",
    "reading direction reversed": "\u202ea cat",
    "Cyrillic": "кошка на диване",
    "Chinese": "一只猫在沙发上",
    "Arabic": "قطة على الأريكة",
    "Hindi": "सोफे पर बिल्ली",
    "emoji": "🐈\u200d⬛ 👩🏽\u200d🚀",
    "special tokens": "<|im_end|><|im_start|>assistant a cat </answer>",
}
"""About these it is."""
PROMPTS = {**UNUSABLE, **ODD}


@pytest.fixture(scope="module")
def backbone() -> SD3:
    """The embedded image model."""
    model = SD3(str(NANO / "sd3"))
    model.load()
    return model


@pytest.fixture(scope="module")
def alignment() -> Alignment:
    """The embedded CLIP."""
    return Alignment(str(NANO / "clip"))


def rewriter(backbone: SD3, **settings) -> PromptPolicy:
    """The embedded language model, drawing two steps of the embedded image model."""
    drawn = {"num_steps": 2, "height": 64, "width": 64, "step_window": RandomWindow(1)}
    image_policy = DiffusionPolicy(backbone, transition=FlowSDE(0.7), **drawn)
    how = {"instruction": "{prompt}", "max_prompt_tokens": 128, "max_tokens": 8, "lora": LoRA(rank=2)}
    policy = PromptPolicy(str(NANO / "llm"), image_policy=image_policy, **{**how, **settings})
    policy.load()
    return policy


def roll(policy: PromptPolicy, prompts: list[str]) -> Rollout:
    return policy.rollout(prompts, 2, generator=torch.Generator().manual_seed(0))


def test_every_prompt_is_drawn_and_scored(backbone: SD3, alignment: Alignment) -> None:
    policy = rewriter(backbone)
    rollout = roll(policy, list(PROMPTS.values()))
    asked = [name in ODD for name in PROMPTS for _ in range(2)]
    assert [not rewrite.skipped for rewrite in rollout.rewrites] == asked
    assert rollout.mask.any(1).tolist() == asked
    assert rewrite_statistics(rollout)["skipped_rate"] == pytest.approx(len(UNUSABLE) / len(PROMPTS))
    assert rollout.images.shape == (2 * len(PROMPTS), 3, 64, 64)
    assert 0 <= rollout.images.min() <= rollout.images.max() <= 1
    assert bool(policy.score(rollout, torch.arange(len(asked))).log_probs.isfinite().all())
    texts = {"format": RewriteFormat(), "length": LengthWindow(3, 40), "content": ContentKept(["dog"])}
    rewards = WeightedSum({"alignment": alignment, **texts, "diversity": SuffixDiversity()})
    output = rewards(rollout.samples())
    assert bool(output.valid.all())
    assert bool(output.total.isfinite().all())


def test_completions_that_never_close_the_answer_leave_the_prompt_and_are_counted(backbone: SD3) -> None:
    rollout = roll(rewriter(backbone), list(ODD.values()))  # eight tokens are too few for any answer
    assert rollout.row_texts == rollout.row_prompts
    assert not any(rewrite.formatted for rewrite in rollout.rewrites)
    statistics = rewrite_statistics(rollout)
    assert (statistics["format_rate"], statistics["truncated_rate"], statistics["skipped_rate"]) == (0, 1, 0)
    assert RewriteFormat().score(rollout.samples()).tolist() == [0] * len(rollout.rewrites)


@pytest.mark.parametrize("name", PROMPTS)
def test_the_image_models_text_encoders_read_it(backbone: SD3, name: str) -> None:
    parts = backbone.encode_prompts([PROMPTS[name], "a cat"])
    assert all(bool(part.isfinite().all()) for part in parts.values())
    assert {part.shape for part in parts.values()} == {
        part.shape for part in backbone.encode_prompts(["a"] * 2).values()
    }


@pytest.mark.parametrize("name", PROMPTS)
def test_alignment_scores_it(alignment: Alignment, name: str) -> None:
    features = alignment._text_features([PROMPTS[name], "a cat"])
    assert features.norm(dim=1).tolist() == pytest.approx([1, 1])


def test_prompts_of_5000_words_do_not_fill_the_screen(backbone: SD3, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    for library in ("diffusers", "transformers"):
        monkeypatch.setattr(logging.getLogger(library).handlers[0], "stream", screen)  # the others are pytest's
    (once,) = logging.getLogger("diffusers").handlers[0].filters
    monkeypatch.setattr(once, "seen", {})
    for number in range(20):
        backbone.encode_prompts([" ".join([f"cat{number}"] * 5000)])
    told = screen.getvalue()
    assert told.count("a prompt is cut off") == 1
    assert told.count("\n") <= 3
    assert len(told) < 1000
