"""Scores of hand-made completions under a model that is a table."""

from types import SimpleNamespace

import pytest
import torch

from realgen.functional.token_sampling import pack_bits
from realgen.policies.text_engine import Completions
from realgen.policies.token_scoring import score_tokens, token_state

PAD = 4
TABLE = torch.arange(1.0, 26.0).view(5, 5)
"""Unnormalised probabilities of the next token, by the last one."""
TOKENS = torch.tensor([[1, 2, 3], [3, PAD, PAD]])
MASK = TOKENS != PAD


class Table:
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.shapes = []

    def __call__(self, *, input_ids, use_cache, logits_to_keep):
        assert not use_cache
        self.shapes.append((*input_ids.shape, logits_to_keep))
        return SimpleNamespace(logits=TABLE.log()[input_ids][:, -logits_to_keep:])


def completions(kept: torch.Tensor | None = None) -> Completions:
    zeros = torch.zeros(2, 3)
    return Completions(TOKENS, MASK, torch.tensor([True, True]), zeros, zeros, kept)


def test_prompt_completion_padding():
    trajectory = token_state([[0, 1, 0], [2]], completions(), PAD)
    assert trajectory["tokens"].tolist() == [[0, 1, 0, 1, 2, 3], [2, 3, PAD, PAD, PAD, PAD]]
    assert trajectory["prompt_lengths"].tolist() == [3, 1]
    assert all(len(tensor) == 2 for tensor in trajectory.values())
    assert "kept" not in trajectory


def test_an_empty_prompt_is_a_padding_token():
    trajectory = token_state([[0, 1], []], completions(), PAD)
    assert trajectory["tokens"].tolist() == [[0, 1, 1, 2, 3], [PAD, 3, PAD, PAD, PAD]]
    assert trajectory["prompt_lengths"].tolist() == [2, 1]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_scores_by_hand_in_chunks_of_one_shape(batch_size):
    trajectory = token_state([[0, 1, 0], [2]], completions(), PAD)
    model = Table()
    rows = torch.tensor([1, 0, 1])
    log_probs = score_tokens(model, trajectory, rows, temperature=1.0, batch_size=batch_size)
    # 0 -> 1 -> 2 -> 3: 2/15, 8/40, 14/65. 2 -> 3: 14/65.
    torch.testing.assert_close(log_probs[1].exp(), torch.tensor([2 / 15, 8 / 40, 14 / 65]))
    assert log_probs[0, 0].exp().item() == log_probs[2, 0].exp().item() == pytest.approx(14 / 65)
    assert set(model.shapes) == {(batch_size, 5, 5)}


def test_temperature_sharpens():
    trajectory = token_state([[0], [2]], completions(), PAD)
    log_probs = score_tokens(Table(), trajectory, torch.tensor([0]), temperature=0.5, batch_size=1)
    assert log_probs[0, 0].exp().item() == pytest.approx(4 / (1 + 4 + 9 + 16 + 25))


def test_what_was_outside_the_nucleus_has_no_share():
    kept = torch.zeros(2, 3, 5, dtype=torch.bool)
    kept[0, 0, :2] = kept[0, 1, 2] = kept[0, 2, 2:4] = kept[1, 0, 3:] = True
    trajectory = token_state([[0], [2]], completions(pack_bits(kept)), PAD)
    log_probs = score_tokens(Table(), trajectory, torch.tensor([0, 1]), temperature=1.0, batch_size=2)
    torch.testing.assert_close(log_probs[0].exp(), torch.tensor([2 / 3, 1.0, 14 / 27]))
    assert log_probs[1, 0].exp().item() == pytest.approx(14 / 29)
    assert bool(log_probs.isfinite().all())
