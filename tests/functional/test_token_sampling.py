"""Drawing tokens: against hand-made distributions and transformers' own warpers."""

import pytest
import torch

from realgen.functional.token_sampling import (
    draw_tokens,
    entropy,
    nucleus,
    pack_bits,
    truncated_log_softmax,
    unpack_bits,
)


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(50, 37, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.8])
def test_distribution_is_that_of_transformers(logits, top_p, temperature):
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature), TopPLogitsWarper(top_p)])
    expected = warpers(None, logits).log_softmax(-1)
    kept = nucleus(logits / temperature, top_p)
    actual = truncated_log_softmax(logits, temperature, kept)
    assert torch.equal(actual.isfinite(), expected.isfinite())
    torch.testing.assert_close(actual, expected)


def test_nucleus_keeps_at_least_the_likeliest():
    assert nucleus(torch.tensor([[0.0, 1.0, 0.0], [5.0, 5.0, 5.0]]), 1e-9).tolist() == [
        [False, True, False],
        [True, False, False],
    ]


def test_nucleus_of_one_keeps_all_but_the_impossible(logits):
    assert nucleus(logits, 1.0).all()


def test_draws_invert_the_distribution_function():
    log_probs = torch.tensor([0.0, 0.25, 0.5, 0.0, 0.25, 0.0], dtype=torch.float64).log().expand(7, 6)
    uniforms = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 0.9999, 1.0], dtype=torch.float64)
    assert draw_tokens(log_probs, uniforms).tolist() == [1, 1, 2, 2, 4, 4, 4]


def test_draws_have_the_frequencies_of_the_distribution():
    probs = torch.tensor([0.1, 0.6, 0.0, 0.3])
    uniforms = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    drawn = draw_tokens(probs.log().expand(1000, 4), uniforms)
    assert drawn.bincount(minlength=4).tolist() == [100, 600, 0, 300]


def test_entropy_is_that_of_torch(logits):
    torch.testing.assert_close(
        entropy(logits.log_softmax(-1)), torch.distributions.Categorical(logits=logits).entropy()
    )


@pytest.mark.parametrize("size", [1, 7, 8, 9, 37])
def test_bits_come_back(size):
    mask = torch.rand(3, 4, size, generator=torch.Generator().manual_seed(0)) < 0.5
    packed = pack_bits(mask)
    assert packed.shape == (3, 4, -(-size // 8))
    assert torch.equal(unpack_bits(packed, size), mask)
