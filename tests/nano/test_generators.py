"""The folders of photographs and generators that a report of blind spots reads."""

from types import SimpleNamespace

import torch

from experiments.nano import generators
from experiments.nano.captions import PHOTO_CUES, SYNTHETIC_CUES


def test_each_generator_has_a_folder_of_its_own(tmp_path, monkeypatch):
    drawn = []

    def draw_samples(pretrained, prompts, *, seed, num_steps=16):
        drawn.append((prompts, num_steps))
        return torch.full((len(prompts), 3, 8, 8), len(drawn), dtype=torch.uint8)

    def make_corpus(per_subject, *, seed, held_out):
        assert held_out
        assert (per_subject, seed) == (generators.PER_SUBJECT, generators.HELD_OUT_SEED + generators.SEED)
        return SimpleNamespace(real=torch.zeros(3, 3, 8, 8).byte(), ai=torch.ones(2, 3, 8, 8).byte())

    monkeypatch.setattr(generators, "draw_samples", draw_samples)
    monkeypatch.setattr(generators, "make_corpus", make_corpus)
    monkeypatch.setattr(generators, "NUMBER", 5)
    generators.main(["--output", str(tmp_path / "images")])
    counts = {path.name: len(list(path.iterdir())) for path in (tmp_path / "images/generated").iterdir()}
    assert counts == {"ai_look": 2, **dict.fromkeys(("sd3_four_steps", "sd3_photo", "sd3_plain", "sd3_synthetic"), 5)}
    assert len(list((tmp_path / "images/real").iterdir())) == 3
    assert [steps for _, steps in drawn] == [16, 16, 16, 4]
    synthetic, photo, plain, four = (prompts for prompts, _ in drawn)
    assert plain == four
    for cued, cues in ((synthetic, SYNTHETIC_CUES), (photo, PHOTO_CUES)):
        assert [text.rpartition(", ")[0] for text in cued] == plain
        assert {text.rpartition(", ")[2] for text in cued} <= set(cues)
