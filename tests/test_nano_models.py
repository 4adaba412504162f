"""The shipped models: small, loaded by the libraries they are made for, and as good as their README says."""

import json

import pytest
import torch
from safetensors.torch import load_file

from experiments.nano.captions import plain_prompts, split_prompts
from experiments.nano.corpus import make_corpus
from experiments.nano.detectors import draw_samples
from experiments.nano.photographs import SUBJECTS
from realgen.detectors import Effort, OmniAID
from realgen.functional.corruptions import CHEATS
from realgen.functional.images import from_uint8
from realgen.metrics import TimmEncoder
from realgen.rewards import Alignment
from realgen.types import Samples

DETECTORS = {"omniaid": OmniAID, "effort": Effort}
FIRST_PROMPTS = [plain_prompts(subject)[0] for subject in SUBJECTS]
FRESH_SEED = 31337
"""No training or evaluation of the shipped models has it."""


@pytest.fixture(scope="module")
def samples(nano):
    """One picture of the first plain prompt of every subject, by plain diffusers in 16 steps."""
    from diffusers import StableDiffusion3Pipeline

    pipeline = StableDiffusion3Pipeline.from_pretrained(nano / "sd3")
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(FRESH_SEED)
    return pipeline(
        FIRST_PROMPTS,
        num_inference_steps=16,
        guidance_scale=1.0,
        max_sequence_length=8,
        generator=generator,
        output_type="pt",
    ).images


@pytest.fixture(scope="module")
def figures(nano):
    return json.loads((nano / "figures.json").read_text(encoding="utf-8"))


def similarities(nano, images):
    """Alignment [prompts, images] of the first prompts with the images."""
    count = len(FIRST_PROMPTS)
    samples = Samples(tuple(FIRST_PROMPTS), len(images), images.repeat(count, 1, 1, 1))
    return Alignment(str(nano / "clip")).score(samples).view(count, len(images))


def test_weights_are_20_megabytes_at_most(nano):
    files = list(nano.rglob("*.safetensors"))
    assert (
        len(files) == 12
    )  # five parts of the pipeline, CLIP, three detectors, the encoder, the probe, the language model
    assert sum(path.stat().st_size for path in files) <= 20e6


def test_nothing_but_models_is_shipped(nano):
    allowed = {".safetensors", ".json", ".txt", ".md", ".jinja"}
    assert not [path for path in nano.rglob("*") if path.is_file() and path.suffix not in allowed]
    large = [path for path in nano.rglob("*") if path.suffix == ".json" and path.stat().st_size > 100_000]
    assert not large


def test_no_path_of_the_machine_that_trained_them(nano):
    texts = {path: path.read_text(encoding="utf-8") for path in nano.rglob("*.json")}
    assert len(texts) >= 15
    assert not [path for path, text in texts.items() if '": "/' in text]


def test_weights_are_finite(nano):
    for path in nano.rglob("*.safetensors"):
        assert all(bool(value.isfinite().all()) for value in load_file(path).values()), path


@pytest.mark.slow
def test_plain_diffusers_draws_pictures_of_64_pixels(samples):
    assert samples.shape == (len(SUBJECTS), 3, 64, 64)
    assert bool(samples.isfinite().all())
    assert samples.std((1, 2, 3)).min() > 0.03
    assert samples.flatten(1).unique(dim=0).shape[0] == len(SUBJECTS)


@pytest.mark.slow
def test_pictures_show_their_subject(nano, samples):
    nearest = similarities(nano, samples).argmax(0)
    assert (nearest == torch.arange(len(SUBJECTS))).float().mean() >= 0.8


@pytest.mark.slow
def test_photographs_show_their_subject(nano):
    corpus = make_corpus(2, seed=FRESH_SEED, held_out=True)
    nearest = similarities(nano, from_uint8(corpus.real)).argmax(0)
    assert (nearest == corpus.subjects).float().mean() >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_detectors_tell_fresh_crops_from_fresh_samples(name, nano, fresh_samples):
    detector = DETECTORS[name](str(nano / name))
    crops = from_uint8(make_corpus(5, seed=FRESH_SEED, held_out=True).real)
    real = (detector(crops) < 0.5).float().mean()
    fake = (detector(from_uint8(fresh_samples)) > 0.5).float().mean()
    assert (real + fake) / 2 >= 0.9


@pytest.fixture(scope="module")
def fresh_samples(nano):
    """One picture of each held-out prompt."""
    return draw_samples(nano / "sd3", [prompt for _, prompt in split_prompts()[1]], seed=FRESH_SEED)


@pytest.mark.slow
def test_cues_make_pictures_more_real_than_plain_prompts_do(figures):
    """The gap that post-training closes."""
    for name in DETECTORS:
        assert figures["sd3"][f"p_fake_plain_{name}"] > figures["sd3"][f"p_fake_cued_{name}"]


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_every_way_to_spoil_a_picture_is_reported(name, nano, figures):
    reported = figures[name]
    assert reported == json.loads((nano / name / "figures.json").read_text(encoding="utf-8"))
    expected = {"balanced_accuracy", "real_crops", "real_round_trip", "real_jpeg_75"}
    expected |= {"fake_samples", "fake_samples_jpeg_75", "fake_ai_looking", *(f"fake_{kind}" for kind in CHEATS)}
    assert set(reported) == expected
    assert all(0 <= value <= 1 for value in reported.values())
    assert reported["balanced_accuracy"] >= 0.9


def test_figures_are_of_every_model(figures):
    models = {"vae", "sd3", "clip", "encoder", "omniaid", "effort", "forensic_chat", "imagenet_probe", "llm"}
    assert set(figures) == {*models, "realism", "megabytes"}
    assert figures["clip"]["retrieval_real"] >= 0.9
    assert figures["encoder"]["subject_accuracy"] >= 0.9


def test_prompts_alone_leave_a_gap_that_photographic_cues_close(figures):
    assert figures["sd3"]["retrieval_plain"] >= 0.98
    assert figures["sd3"]["retrieval_cued"] >= 0.98
    realism = figures["realism"]  # KID on ImageNet features, and the worst of eight bands of the spectrum in dB
    assert realism["kid_cued"] <= 0.035
    assert realism["kid_plain"] - realism["kid_cued"] >= 0.035
    assert realism["kid_round_trip"] <= 0.014
    assert abs(realism["worst_band_round_trip"]) <= 2
    assert abs(realism["worst_band_cued"]) <= 4
    assert figures["imagenet_probe"]["auroc"] >= 0.98


@pytest.mark.parametrize("detector", ["omniaid", "effort", "forensic_chat"])
def test_detectors_know_samples_of_the_base(figures, detector):
    assert figures[detector]["balanced_accuracy"] >= 0.97


def test_sizes_are_those_on_disk(nano, figures):
    for name, megabytes in figures["megabytes"].items():
        on_disk = sum(path.stat().st_size for path in (nano / name).rglob("*.safetensors"))
        assert megabytes == pytest.approx(on_disk / 1e6)


def test_our_classes_load_them(nano):
    images = torch.rand(2, 3, 64, 64)
    for name, detector in DETECTORS.items():
        p_fake = detector(str(nano / name))(images)
        assert p_fake.shape == (2,)
        assert bool(((p_fake >= 0) & (p_fake <= 1)).all())
    assert similarities(nano, images).shape == (len(SUBJECTS), 2)
    assert TimmEncoder(str(nano / "encoder"))(images).ndim == 2
