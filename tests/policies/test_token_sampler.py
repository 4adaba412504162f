"""The sampling loop on a model that is a table: the next token's distribution depends on the last token alone."""

from types import SimpleNamespace

import pytest
import torch

from realgen.functional.token_sampling import unpack_bits
from realgen.policies.text_engine import TokenSampler, concatenate_completions

END, PAD = 3, 4
TABLE = torch.tensor(
    [
        [0.0, 1.0, 0.0, 0.0, 0.0],  # 0 -> 1
        [0.0, 0.0, 0.5, 0.5, 0.0],  # 1 -> 2 or the end
        [0.6, 0.3, 0.0, 0.1, 0.0],
        [0.2, 0.2, 0.2, 0.2, 0.2],
        [0.2, 0.2, 0.2, 0.2, 0.2],
    ]
).log()


class Table:
    """Answers as a causal language model does, and remembers what it was shown."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.calls = []

    def __call__(self, *, input_ids, attention_mask, position_ids, past_key_values, use_cache, logits_to_keep):
        self.calls.append((input_ids, attention_mask, position_ids, past_key_values))
        return SimpleNamespace(logits=TABLE[input_ids][:, -logits_to_keep:], past_key_values=len(self.calls))


def sampler(**settings) -> TokenSampler:
    return TokenSampler(**{"temperature": 1.0, "top_p": 1.0, "pad_id": PAD, "end_ids": [END], **settings})


def uniforms(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


CHANCE = uniforms([[0.5, 0.2, 0.7, 0.9], [0.9, 0.5, 0.5, 0.5]])


def test_rows_go_their_own_ways_and_end_where_they_end():
    made = sampler()(Table(), [[2, 0], [1]], CHANCE)
    # Row 0: 0 -> 1 -> 2 (0.2 < 0.5) -> 1 (0.6 <= 0.7 < 0.9) -> end. Row 1: 1 -> end.
    assert made.tokens.tolist() == [[1, 2, 1, END], [END, PAD, PAD, PAD]]
    assert made.mask.tolist() == [[True] * 4, [True, False, False, False]]
    assert made.ended.tolist() == [True, True]
    expected = [[1.0, 0.5, 0.3, 0.5], [0.5, 1.0, 1.0, 1.0]]
    torch.testing.assert_close(made.log_probs.exp(), torch.tensor(expected))
    entropy = -(0.6 * torch.tensor(0.6).log() + 0.3 * torch.tensor(0.3).log() + 0.1 * torch.tensor(0.1).log()).item()
    torch.testing.assert_close(made.entropy, torch.tensor([[0, 0.693147, entropy, 0.693147], [0.693147, 0, 0, 0]]))
    assert made.kept is None


def test_the_model_sees_left_padding_positions_and_its_cache():
    model = Table()
    sampler()(model, [[2, 0], [1]], CHANCE)
    ids, attention, positions, cache = model.calls[0]
    assert (ids.tolist(), attention.tolist()) == ([[2, 0], [PAD, 1]], [[1, 1], [0, 1]])
    assert (positions.tolist(), cache) == ([[0, 1], [0, 0]], None)
    ids, attention, positions, cache = model.calls[2]
    assert (ids.tolist(), attention.tolist()) == ([[2], [PAD]], [[1, 1, 1, 1], [0, 1, 1, 1]])
    assert (positions.tolist(), cache) == ([[3], [2]], 2)
    assert len(model.calls) == 4


def test_the_limit_cuts_off():
    made = sampler()(Table(), [[2, 0], [1]], CHANCE[:, :2])
    assert made.tokens.tolist() == [[1, 2], [END, PAD]]
    assert made.ended.tolist() == [False, True]


def test_it_stops_when_all_have_ended():
    model, told = Table(), []
    sampler()(model, [[1]], uniforms([[0.9] * 50]), told.append)
    assert len(model.calls) == 1
    assert told == [1]


def test_a_nucleus_is_kept_for_every_token():
    made = sampler(top_p=0.8)(Table(), [[2]], uniforms([[0.99, 0.0]]))
    assert made.tokens.tolist() == [[1, 2]]  # the end, 0.1, is outside the nucleus of token 2
    assert unpack_bits(made.kept, 5)[0, 0].tolist() == [True, True, False, False, False]
    assert made.log_probs[0, 0].exp().item() == pytest.approx(0.3 / 0.9)


def test_temperature_zero_takes_the_likeliest():
    made = sampler(temperature=0.0)(Table(), [[2]], uniforms([[0.99, 0.99]]))
    assert made.tokens.tolist() == [[0, 1]]
    assert not made.log_probs.any()


def test_empty_rows_are_not_continued():
    made = sampler()(Table(), [[], [1]], CHANCE)
    assert made.tokens.tolist() == [[PAD], [END]]
    assert made.mask.tolist() == [[False], [True]]
    assert made.ended.tolist() == [False, True]
    assert sampler()(Table(), [[]], CHANCE[:1]).mask.tolist() == [[False]]


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_parts_are_joined_as_if_drawn_together(top_p):
    draw = sampler(top_p=top_p)
    together = draw(Table(), [[2, 0], [1]], CHANCE)
    parts = [draw(Table(), [[2, 0]], CHANCE[:1]), draw(Table(), [[1]], CHANCE[1:])]
    joined = concatenate_completions(parts, PAD)
    for name in ("tokens", "mask", "ended", "log_probs", "entropy"):
        assert torch.equal(getattr(joined, name), getattr(together, name)), name
    assert (joined.kept is None) == (top_p == 1.0)
    if joined.kept is not None:
        assert torch.equal(joined.kept, together.kept)
