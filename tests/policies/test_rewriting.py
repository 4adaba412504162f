"""Completions made by hand, read and counted."""

import math

import pytest
import torch
from transformers import AutoTokenizer

from realgen.policies.chat import Chat
from realgen.policies.rewriting import read_rewrites, rewrite_statistics
from realgen.policies.text_engine import Completions
from realgen.types import PolicyScore, Rewrite, Rollout

WRITTEN = (
    "<think>a</think><answer>a cat, film grain</answer>",
    "<think>a</think><answer>a cat, film grain</answer>",
    "<think>a</think><answer>a cat, film",
    "",
)
ENDED = (True, True, False, False)


@pytest.fixture
def chat(tiny_llm) -> Chat:
    return Chat(AutoTokenizer.from_pretrained(tiny_llm), "{prompt}", 64)


@pytest.fixture
def completions(chat) -> Completions:
    rows = [
        chat.tokenizer(text)["input_ids"] + [chat.end_ids[0]] * ended
        for text, ended in zip(WRITTEN, ENDED, strict=True)
    ]
    size = max(map(len, rows))
    tokens = torch.tensor([row + [chat.pad_id] * (size - len(row)) for row in rows])
    mask = torch.arange(size) < torch.tensor([len(row) for row in rows])[:, None]
    zeros = torch.zeros(4, size)
    return Completions(tokens, mask, torch.tensor(ENDED), zeros, zeros, None)


def test_answers_or_the_users_prompt(chat, completions):
    rewrites = read_rewrites(["a  cat"] * 4, [[1], [1], [1], []], completions, chat)
    assert [rewrite.text for rewrite in rewrites] == ["a cat, film grain"] * 2 + ["a  cat"] * 2
    assert [rewrite.completion for rewrite in rewrites] == list(WRITTEN)
    assert [rewrite.formatted for rewrite in rewrites] == [True, True, False, False]
    assert [rewrite.truncated for rewrite in rewrites] == [False, False, True, False]
    assert [rewrite.skipped for rewrite in rewrites] == [False, False, False, True]


@pytest.mark.parametrize("written", ["<think>a</think><answer>a<|im_start|> cat</answer>", WRITTEN[0]])
def test_an_answer_with_a_special_token_is_none(chat, written):
    """An image model's tokenizer may give it a meaning of its own."""
    tokens = torch.tensor([chat.tokenizer(written)["input_ids"] + [chat.end_ids[0]]])
    zeros = torch.zeros(tokens.shape)
    completions = Completions(tokens, tokens >= 0, torch.tensor([True]), zeros, zeros, None)
    (rewrite,) = read_rewrites(["a dog"], [[1]], completions, chat)
    assert (rewrite.text, rewrite.formatted) == (
        ("a cat, film grain", True) if written == WRITTEN[0] else ("a dog", False)
    )


def test_statistics_by_hand(chat, completions):
    rewrites = read_rewrites(["a  cat"] * 4, [[1], [1], [1], []], completions, chat)
    mask, size = completions.mask, completions.tokens.shape[1]
    log_probs = torch.full((4, size), -0.5)
    sampler = log_probs.clone()
    sampler[0, 0] += 0.25
    sampler[~mask] = -99.0
    entropy = torch.where(mask, 2.0, math.nan)
    rollout = Rollout(
        prompts=("a  cat",),
        group_size=4,
        images=torch.zeros(4, 3, 0, 0),
        sampled=PolicyScore(log_probs),
        mask=mask,
        policy_state={"sampler_log_probs": sampler, "entropy": entropy},
        rewrites=tuple(rewrites),
    )
    assert rewrite_statistics(rollout) == {
        "format_rate": 2 / 3,  # the fourth row was not asked
        "truncated_rate": 1 / 3,
        "skipped_rate": 0.25,
        "distinct_rate": 0.5,
        "completion_tokens": int(mask.sum()) / 3,
        "entropy": 2.0,
        "sampler_gap_max": 0.25,
    }


def test_statistics_of_nothing_but_raw_prompts_are_finite():
    """One rank may get no other prompts than empty ones."""
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    raw = Rewrite("", "", formatted=False, truncated=False, skipped=True)
    trajectory = {"sampler_log_probs": torch.zeros(1, 2), "entropy": torch.zeros(1, 2)}
    rollout = Rollout(("",), 1, torch.zeros(1, 3, 0, 0), PolicyScore(torch.ones(1, 2)), nothing, trajectory, (raw,))
    statistics = rewrite_statistics(rollout)
    assert (statistics.pop("skipped_rate"), statistics.pop("distinct_rate")) == (1.0, 1.0)
    assert set(statistics.values()) == {0.0}
