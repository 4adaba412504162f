"""The corpus is a function of its arguments, and its rows belong together."""

import numpy as np
import pytest
import torch

from experiments.nano.corpus import HELD_OUT_SEED, TRAIN_SEED, make_corpus, to_bytes
from experiments.nano.photographs import SUBJECTS, real_crop


@pytest.fixture(scope="module")
def corpus():
    return make_corpus(2, seed=TRAIN_SEED, size=32)


def test_shapes(corpus):
    assert corpus.real.shape == corpus.ai.shape == (2 * len(SUBJECTS), 3, 32, 32)
    assert corpus.real.dtype == corpus.ai.dtype == torch.uint8
    assert corpus.subjects.tolist() == [index for index in range(len(SUBJECTS)) for _ in range(2)]


def test_same_arguments_same_tensors(corpus):
    again, other = make_corpus(2, seed=TRAIN_SEED, size=32), make_corpus(2, seed=HELD_OUT_SEED, size=32)
    assert torch.equal(again.real, corpus.real)
    assert torch.equal(again.ai, corpus.ai)
    assert not torch.equal(other.real, corpus.real)


def test_held_out_crops_differ(corpus):
    held_out = make_corpus(2, seed=TRAIN_SEED, size=32, held_out=True)
    textures = torch.tensor([SUBJECTS[index].center is None for index in corpus.subjects.tolist()])
    differs = (held_out.real != corpus.real).flatten(1).any(1)
    assert differs[textures].all()


def test_first_crop_is_the_first_subjects(corpus):
    crop = real_crop(SUBJECTS[0], np.random.default_rng(TRAIN_SEED), size=32)
    assert torch.equal(corpus.real[0].permute(1, 2, 0), torch.from_numpy((crop * 255).round().astype(np.uint8)))


def test_rows_belong_together(corpus):
    """Each AI-looking crop is nearer to its own photograph than to those of other subjects, in grey and coarsely."""
    real, ai = (
        torch.nn.functional.avg_pool2d(pictures.float().mean(1, keepdim=True), 4).flatten(1)
        for pictures in (corpus.real, corpus.ai)
    )
    correlation = torch.corrcoef(torch.cat([real, ai]))[: len(real), len(real) :]
    nearest = corpus.subjects[correlation.argmax(0)]
    assert (nearest == corpus.subjects).float().mean() > 0.9


def test_to_bytes_rounds():
    picture = np.zeros((2, 2, 3), dtype=np.float32)
    picture[0, 1] = [0.5, 1.0, 0.2]
    result = to_bytes([picture, picture])
    assert result.shape == (2, 3, 2, 2)
    assert result[1, :, 0, 1].tolist() == [128, 255, 51]
    assert result.is_contiguous()
