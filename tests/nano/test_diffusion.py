"""The nano pipeline: what plain diffusers loads and embeds is what was trained."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from experiments.nano import diffusion
from experiments.nano.captions import PHOTO_CUES, SYNTHETIC_CUES, split_prompts
from experiments.nano.corpus import Corpus
from experiments.nano.diffusion import (
    LONG_T5_TOKENS,
    T5_TOKENS,
    Denoiser,
    draw_caption,
    encode_corpus,
    learning_rate,
    main,
    shifted,
    train_denoiser,
)
from experiments.nano.photographs import SUBJECTS
from experiments.nano.tokenizer import build_tokenizer

PROMPTS = ["a cat", "a picture of bricks, film grain"]


@pytest.fixture(scope="module")
def pipeline(untrained):
    from diffusers import StableDiffusion3Pipeline

    pipeline = StableDiffusion3Pipeline.from_pretrained(untrained, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def denoiser(pipeline):
    model = Denoiser(build_tokenizer()).eval()
    for name in ("transformer", "text_encoder", "text_encoder_2"):
        getattr(model, name).load_state_dict(getattr(pipeline, name).state_dict())
    return model


def embeddings(pipeline, t5_tokens):
    """What the pipeline makes of the prompts: token embeddings and pooled ones."""
    answer = pipeline.encode_prompt(
        PROMPTS, None, None, max_sequence_length=t5_tokens, do_classifier_free_guidance=False
    )
    return answer[0], answer[2]


def test_plain_diffusers_loads_every_part_in_one_precision(pipeline):
    parts = ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
    assert [getattr(pipeline, part).dtype for part in parts] == [torch.float32] * 5


def test_large_parts_are_stored_in_half_precision(untrained):
    from safetensors.torch import load_file

    files = {path.parent.name: path for path in untrained.rglob("*.safetensors")}
    assert set(files) == {"transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"}
    for part in ("transformer", "vae"):
        assert {value.dtype for value in load_file(files[part]).values()} == {torch.float16}
    assert sum(path.stat().st_size for path in files.values()) < 10e6


@torch.no_grad()
@pytest.mark.parametrize("t5_tokens", [T5_TOKENS, LONG_T5_TOKENS])
def test_captions_are_embedded_as_the_pipeline_does(pipeline, denoiser, t5_tokens):
    expected_tokens, expected_pooled = embeddings(pipeline, t5_tokens)
    tokens, pooled = denoiser.encode(PROMPTS, t5_tokens)
    assert torch.equal(tokens, expected_tokens)
    assert torch.equal(pooled, expected_pooled)


@torch.no_grad()
def test_the_silent_t5_is_the_absent_one(pipeline):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 8, 16, 16, generator=generator)

    def draw():
        return pipeline(PROMPTS, latents=noise, num_inference_steps=2, output_type="pt").images

    images, t5 = draw(), pipeline.text_encoder_3
    try:
        pipeline.text_encoder_3 = None
        assert torch.equal(draw(), images)
    finally:
        pipeline.text_encoder_3 = t5
    assert images.shape == (2, 3, 64, 64)
    assert not torch.equal(images[0], images[1])


@torch.no_grad()
def test_forward_is_the_transformer_at_1000_sigma(pipeline, denoiser):
    latents, sigma = torch.randn(2, 8, 16, 16), torch.tensor([0.2, 0.9])
    tokens, pooled = embeddings(pipeline, 8)
    expected = pipeline.transformer(latents, tokens, pooled, torch.tensor([200.0, 900.0])).sample
    assert torch.equal(denoiser(latents, sigma, PROMPTS, 8), expected)


def test_short_prompts_mostly_come_with_the_ai_look_and_photographic_ones_do_not():
    prompts = [[prompt for owner, prompt in split_prompts()[0] if owner == index] for index in range(len(SUBJECTS))]
    rng = np.random.default_rng(0)
    kinds, looks = Counter(), Counter()
    for _ in range(4000):
        caption, ai = draw_caption(5, prompts, rng)
        cues = caption.split(", ")[1:]
        kind = "plain" if not cues else "photo" if cues[0] in PHOTO_CUES else "synthetic"
        assert set(cues) <= set(PHOTO_CUES) or set(cues) <= set(SYNTHETIC_CUES)
        kinds[kind] += 1
        looks[kind] += ai
    # 0.55, 0.32 and 0.13 of the captions; four standard deviations of 4,000 draws are 0.03
    names = ("plain", "photo", "synthetic")
    assert [kinds[name] / 4000 for name in names] == pytest.approx([0.55, 0.32, 0.13], abs=0.03)
    assert [looks[name] / kinds[name] for name in names] == pytest.approx([0.75, 0.04, 0.97], abs=0.04)


def test_held_out_prompts_are_never_drawn_plain():
    train, validation = split_prompts()
    prompts = [[prompt for owner, prompt in train if owner == index] for index in range(len(SUBJECTS))]
    held_out = {prompt for _, prompt in validation}
    rng = np.random.default_rng(0)
    assert not any(draw_caption(number % len(SUBJECTS), prompts, rng)[0] in held_out for number in range(2000))


def test_shift_is_the_schedulers():
    from diffusers import FlowMatchEulerDiscreteScheduler

    plain, moved = (FlowMatchEulerDiscreteScheduler(shift=shift).sigmas for shift in (1.0, 3.0))
    assert torch.allclose(shifted(plain, 3.0), moved, atol=1e-6)
    assert torch.equal(shifted(plain, 1.0), plain)


def test_learning_rate_has_two_cycles():
    # 1,000 steps: the first 640 peak after their warm-up of 200, the others after one of 100
    rates = [learning_rate(step, 1000) for step in range(1000)]
    assert max(rates[:640]) == rates[199] == pytest.approx(1e-3)
    assert max(rates[640:]) == rates[739] == pytest.approx(8e-4)
    assert rates[639] < 2e-5
    assert rates[999] < 1e-5
    assert rates[640] == pytest.approx(8e-6)


def test_latents_are_shifted_and_scaled():
    def encode(images):
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=F.avg_pool2d(images, 4)[:, :1].expand(-1, 8, -1, -1)))

    vae = SimpleNamespace(encode=encode, config=SimpleNamespace(shift_factor=0.5, scaling_factor=2.0))
    white, black = torch.full((3, 3, 64, 64), 255, dtype=torch.uint8), torch.zeros(3, 3, 64, 64, dtype=torch.uint8)
    latents = encode_corpus(vae, Corpus(white, black, torch.tensor([0, 1, 2])))
    assert latents.real.shape == (3, 8, 16, 16)
    assert latents.real.unique().tolist() == [1.0]  # (1 - 0.5) * 2
    assert latents.ai.unique().tolist() == [-3.0]  # (-1 - 0.5) * 2
    assert latents.subjects == [0, 1, 2]


@pytest.mark.usefixtures("eager")
def test_training_changes_every_part_and_is_reproducible(tmp_path):
    def train():
        torch.manual_seed(0)
        latents = torch.randn(len(SUBJECTS), 8, 16, 16)
        corpus = diffusion.LatentCorpus(latents, -latents, list(range(len(SUBJECTS))))
        model = Denoiser(build_tokenizer())
        start = {name: value.clone() for name, value in model.state_dict().items()}
        model = train_denoiser(model, corpus, tmp_path / "training.ckpt", steps=2, batch_size=4, seed=0)
        return start, model.state_dict()

    (start, first), (_, again) = train(), train()
    assert all(torch.equal(first[name], again[name]) for name in first)
    moved = {name.split(".")[0] for name in first if not torch.equal(first[name], start[name])}
    assert moved == {"transformer", "text_encoder", "text_encoder_2"}


def test_command_line_hands_on_its_arguments(monkeypatch):
    seen = []
    monkeypatch.setattr(diffusion, "make_pipeline", lambda **settings: seen.append(settings))
    main(["--output", "there", "--crops", "2"])
    expected = {"steps": diffusion.STEPS, "batch_size": diffusion.BATCH_SIZE, "seed": diffusion.SEED}
    assert seen == [{**expected, "output": Path("there"), "crops": 2}]
