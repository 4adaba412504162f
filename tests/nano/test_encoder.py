"""The encoder: what its figures mean, and where its settings come from."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from experiments.nano import encoder
from experiments.nano.corpus import HELD_OUT_CROPS, Corpus
from experiments.nano.encoder import CONFIG, evaluate_encoder, main
from experiments.nano.photographs import SUBJECTS


class Answer(nn.Module):
    """Reads subject and look off the colour: red is 10 times the subject, green is 255 for an AI look."""

    def forward(self, pixels):
        red, green, _ = (pixels * 0.25 + 0.5).mean((2, 3)).mul(255).round().unbind(1)
        return F.one_hot((2 * (red / 10).round() + (green > 127)).long(), 2 * len(SUBJECTS)).float()


def test_figures_by_hand():
    subjects = torch.arange(len(SUBJECTS))
    none = torch.zeros_like(subjects)
    colour = torch.stack([10 * subjects, none, none], dim=1)
    real = colour.to(torch.uint8)[:, :, None, None].expand(-1, 3, 8, 8).clone()
    ai = real.clone()
    ai[: len(SUBJECTS) // 4, 1] = 255  # a quarter is told to be AI-looking
    ai[: len(SUBJECTS) // 2, 0] = 0  # half is taken for the first subject, which is right once
    figures = evaluate_encoder(nn.Sequential(Answer()), Corpus(real, ai, subjects))
    right = 0.5 + 1 / len(SUBJECTS)
    assert figures == pytest.approx({"subject_accuracy": (1 + right) / 2, "look_accuracy": (1 + 0.25) / 2})


def test_the_network_is_small_and_describes_images_of_64_pixels():
    network = CONFIG.network().eval()
    assert network(torch.zeros(2, 3, 64, 64)).ndim == 2
    assert sum(parameter.numel() for parameter in network.parameters()) < 1e6


def test_command_line_hands_on_its_arguments(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(encoder, "make_encoder", lambda **settings: seen.append(settings) or {"look_accuracy": 1.0})
    main(["--output", "there", "--steps", "3"])
    expected = {"crops": encoder.CROPS, "held_out_crops": HELD_OUT_CROPS, "batch_size": encoder.BATCH_SIZE}
    assert seen == [{**expected, "output": Path("there"), "steps": 3, "seed": encoder.SEED}]
    assert json.loads(capsys.readouterr().out) == {"look_accuracy": 1.0}
