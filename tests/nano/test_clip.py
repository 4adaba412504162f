"""The alignment model: its loss and its figures by hand."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from experiments.nano import clip
from experiments.nano.captions import PHOTO_CUES, SYNTHETIC_CUES
from experiments.nano.clip import clip_config, contrastive_loss, draw_caption, evaluate_clip, main
from experiments.nano.corpus import HELD_OUT_CROPS, Corpus
from experiments.nano.photographs import SUBJECTS
from experiments.nano.tokenizer import build_tokenizer


def test_contrastive_loss_of_two_subjects():
    # lengths do not count; logits are 10 on the diagonal and 0 beside it
    loss = contrastive_loss(3 * torch.eye(2), 0.5 * torch.eye(2), torch.tensor([4, 7]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-10)), abs=1e-6)


def test_contrastive_loss_of_one_subject():
    # both texts fit both images: -(log p + log q) / 2 with p = 1 / (1 + e^-10), q = p e^-10
    loss = contrastive_loss(torch.eye(2), torch.eye(2), torch.tensor([4, 4]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-10)) + 5, abs=1e-5)


def test_contrastive_loss_looks_both_ways():
    images, texts = torch.eye(3), torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 0, 1]])
    subjects = torch.tensor([0, 1, 2])
    logits = 10 * images @ texts.T
    by_image = -torch.stack([logits.log_softmax(1)[i, i] for i in range(3)]).mean()
    by_text = -torch.stack([logits.log_softmax(0)[i, i] for i in range(3)]).mean()
    assert by_image != pytest.approx(by_text.item())
    assert contrastive_loss(images, texts, subjects).item() == pytest.approx(((by_image + by_text) / 2).item())


def test_captions_are_of_every_kind():
    rng = np.random.default_rng(0)
    captions = [draw_caption(5, rng) for _ in range(1000)]
    plain = sum("," not in caption for caption in captions)
    photographic = sum(any(cue in caption for cue in PHOTO_CUES) for caption in captions)
    synthetic = sum(any(cue in caption for cue in SYNTHETIC_CUES) for caption in captions)
    assert [plain / 1000, photographic / 1000, synthetic / 1000] == pytest.approx([0.6, 0.25, 0.15], abs=0.06)
    assert all(any(name in caption for name in SUBJECTS[5].names) for caption in captions)


@pytest.fixture
def folder(tmp_path):
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    config = clip_config(len(tokenizer), tokenizer.eos_token_id)
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    return tmp_path


def test_open_clip_builds_the_model(folder):
    import open_clip

    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["a cat"])
    assert tokens.shape == (1, 24)
    assert model.encode_text(tokens).shape == model.encode_image(torch.zeros(1, 3, 64, 64)).shape == (1, 64)


def test_figures_by_hand(folder):
    """Photographs are understood; AI-looking crops are all taken for the first subject."""
    count = len(SUBJECTS)

    def encode_image(pixels):
        numbers = ((pixels.mean((1, 2, 3)) + 1) * 12.75).round().long()
        return 2.0 * F.one_hot(numbers, count).float()

    model = SimpleNamespace(encode_text=lambda tokens: 3.0 * torch.eye(count)[: len(tokens)], encode_image=encode_image)
    subjects = torch.arange(count)
    real = (10 * subjects).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 64, 64)
    figures = evaluate_clip(model, folder, Corpus(real, torch.zeros_like(real), subjects))
    assert figures == pytest.approx(
        {
            "retrieval_real": 1.0,
            "cosine_real": 1.0,
            "cosine_other_real": 0.0,
            "retrieval_ai": 1 / count,
            "cosine_ai": 1 / count,
            "cosine_other_ai": (1 - 1 / count) / (count - 1),
        }
    )


def test_command_line_hands_on_its_arguments(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(clip, "make_clip", lambda **settings: seen.append(settings) or {"retrieval_real": 1.0})
    main(["--output", "there", "--seed", "3"])
    expected = {
        "crops": clip.CROPS,
        "held_out_crops": HELD_OUT_CROPS,
        "steps": clip.STEPS,
        "batch_size": clip.BATCH_SIZE,
    }
    assert seen == [{**expected, "output": Path("there"), "seed": 3}]
    assert json.loads(capsys.readouterr().out) == {"retrieval_real": 1.0}
