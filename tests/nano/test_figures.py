"""What the figures of VAE and diffusion model mean."""

import json
import math

import pytest
import torch

from experiments.nano import figures as module
from experiments.nano.captions import PHOTO_CUES, split_prompts
from experiments.nano.corpus import Corpus
from experiments.nano.figures import measure, measure_diffusion, measure_vae, psnr
from experiments.nano.photographs import SUBJECTS

VALIDATION = split_prompts()[1]


def test_psnr_is_averaged_over_images():
    images = torch.zeros(2, 3, 4, 4)
    decoded = images.clone()
    decoded[0] += 0.1  # 20 dB
    decoded[1] += 0.01  # 40 dB
    assert psnr(images, decoded) == pytest.approx(30.0, abs=1e-3)


def test_vae_is_measured_on_both_looks(monkeypatch, tmp_path):
    black = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    monkeypatch.setattr(module, "round_trip", lambda _, pictures: pictures + (51 if pictures.max() == 0 else 5))
    corpus = Corpus(real=black, ai=black + 100, subjects=torch.tensor([0, 1]))
    expected = {"psnr_real": -20 * math.log10(51 / 255), "psnr_ai": -20 * math.log10(5 / 255)}
    assert measure_vae(tmp_path, corpus) == pytest.approx(expected, abs=1e-3)


class Detector:
    """Says 0.25 of bright pictures and 0.75 of dark ones."""

    def __init__(self, checkpoint):
        self.checkpoint = checkpoint

    def __call__(self, images):
        return torch.where(images.mean((1, 2, 3)) > 0.5, 0.25, 0.75)


class Effort(Detector):
    pass


class OmniAID(Detector):
    pass


@pytest.fixture
def drawn(monkeypatch):
    """Draw cued prompts bright and plain ones dark, and note what was asked for."""
    asked = []

    def draw_samples(pretrained, prompts, *, seed):
        asked.append(prompts)
        bright = torch.tensor(["," in prompt for prompt in prompts]).view(-1, 1, 1, 1)
        return (bright * 200).to(torch.uint8).expand(-1, 3, 64, 64)

    monkeypatch.setattr(module, "draw_samples", draw_samples)
    monkeypatch.setattr("open_clip.create_model", lambda _: torch.nn.Identity())
    monkeypatch.setattr(
        module,
        "evaluate_clip",
        lambda model, folder, corpus: {
            "retrieval_real": float(corpus.real.max()) / 200,
            "retrieval_ai": float(corpus.ai.max()) / 200,
        },
    )
    monkeypatch.setattr(module, "OmniAID", OmniAID)
    monkeypatch.setattr(module, "Effort", Effort)
    return asked


def test_diffusion_is_measured_by_the_other_models(drawn, tmp_path):
    assert measure_diffusion(tmp_path) == {
        "retrieval_plain": 0.0,
        "retrieval_cued": 1.0,
        "p_fake_plain_omniaid": 0.75,
        "p_fake_cued_omniaid": 0.25,
        "p_fake_plain_effort": 0.75,
        "p_fake_cued_effort": 0.25,
    }
    plain, cued = drawn
    assert sorted(plain) == sorted(prompt for _, prompt in VALIDATION)
    for prompt, longer in zip(plain, cued, strict=True):
        first, *cues = longer.split(", ")
        assert first == prompt
        assert len(set(cues)) == 2
        assert set(cues) <= set(PHOTO_CUES)


def test_fewer_prompts_are_still_one_of_every_subject(drawn, tmp_path):
    measure_diffusion(tmp_path, prompts_per_subject=1)
    owners = {prompt: index for index, prompt in VALIDATION}
    assert [owners[prompt] for prompt in drawn[0]] == list(range(len(SUBJECTS)))


def test_measure_gathers_what_training_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "measure_vae", lambda pretrained, corpus: {"crops": float(len(corpus.subjects))})
    monkeypatch.setattr(
        module, "measure_diffusion", lambda nano, *, prompts_per_subject: {"each": float(prompts_per_subject)}
    )
    monkeypatch.setattr(module, "measure_pipeline", lambda pretrained, *, clip: {"cued": {"kid": 0.03, "chroma": 17.0}})
    for number, name in enumerate(["clip", "encoder", "omniaid", "effort", "forensic_chat", "imagenet_probe", "llm"]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "figures.json").write_text(json.dumps({"value": float(number)}))
        (tmp_path / name / "x.safetensors").write_bytes(bytes(1000 * (number + 1)))
    (tmp_path / "sd3" / "vae").mkdir(parents=True)
    (tmp_path / "sd3" / "vae" / "x.safetensors").write_bytes(bytes(500))
    assert measure(tmp_path, held_out_crops=1, prompts_per_subject=2) == {
        "vae": {"crops": float(len(SUBJECTS))},
        "sd3": {"each": 2.0},
        "realism": {"kid_cued": 0.03},
        "clip": {"value": 0.0},
        "encoder": {"value": 1.0},
        "omniaid": {"value": 2.0},
        "effort": {"value": 3.0},
        "forensic_chat": {"value": 4.0},
        "imagenet_probe": {"value": 5.0},
        "llm": {"value": 6.0},
        "megabytes": {
            "sd3": 0.0005,
            "clip": 0.001,
            "encoder": 0.002,
            "omniaid": 0.003,
            "effort": 0.004,
            "forensic_chat": 0.005,
            "imagenet_probe": 0.006,
            "llm": 0.007,
        },
    }
