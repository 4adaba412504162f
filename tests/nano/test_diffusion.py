"""The nano pipeline: what plain diffusers loads and embeds is what was trained."""

import shutil
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
    GUIDANCE,
    LONG_EVERY,
    LONG_T5_TOKENS,
    PLAIN_GUIDANCE,
    T5_TOKENS,
    Batch,
    Denoiser,
    LatentCorpus,
    build_optimizers,
    denoising_loss,
    draw_batch,
    draw_caption,
    draw_sigma,
    encode_corpus,
    load_denoiser,
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
        caption, ai, guidance = draw_caption(5, prompts, rng)
        cues = caption.split(", ")[1:]
        assert guidance == (GUIDANCE if cues else PLAIN_GUIDANCE)
        kind = "plain" if not cues else "photo" if cues[0] in PHOTO_CUES else "synthetic"
        assert set(cues) <= set(PHOTO_CUES) or set(cues) <= set(SYNTHETIC_CUES)
        kinds[kind] += 1
        looks[kind] += ai
    # 0.55, 0.32 and 0.13 of the captions; four standard deviations of 4,000 draws are 0.03
    names = ("plain", "photo", "synthetic")
    assert [kinds[name] / 4000 for name in names] == pytest.approx([0.55, 0.32, 0.13], abs=0.03)
    assert [looks[name] / kinds[name] for name in names] == pytest.approx([0.8, 0.02, 0.97], abs=0.04)


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


def test_noise_levels_of_a_batch_leave_no_gap():
    sigma = draw_sigma(1000, 1.0, torch.Generator().manual_seed(0))
    # one normal quantile of every thousandth, in no order
    quantiles = torch.special.ndtr(sigma.logit())
    assert torch.equal((quantiles * 1000).floor().sort().values, torch.arange(1000.0))
    assert not torch.equal(sigma, sigma.sort().values)
    moved = draw_sigma(1000, 3.0, torch.Generator().manual_seed(0))
    assert torch.equal(moved, shifted(sigma, 3.0))


def latent_corpus():
    latents = torch.randn(len(SUBJECTS), 8, 16, 16, generator=torch.Generator().manual_seed(0))
    return diffusion.LatentCorpus(latents, -latents, list(range(len(SUBJECTS))))


@pytest.mark.parametrize("step", [0, LONG_EVERY - 1])
def test_a_batch_is_data_and_noise_of_its_levels(step):
    corpus = latent_corpus()
    prompts = [[prompt for owner, prompt in split_prompts()[0] if owner == index] for index in range(len(SUBJECTS))]
    generator = torch.Generator().manual_seed(1)
    batch = draw_batch(corpus, prompts, step=step, batch_size=40, seed=0, generator=generator)
    assert len(batch.captions) == (10 if step else 40)
    assert batch.t5_tokens == (LONG_T5_TOKENS if step else T5_TOKENS)
    # noisy = data + sigma (noise - data), and the data are latents of the corpus
    data = batch.noisy - batch.sigma[:, None, None, None] * batch.velocity
    known = torch.cat([corpus.real, corpus.ai]).flatten(1)
    assert (data.flatten(1)[:, None] - known).abs().amax(2).min(1).values.max() < 1e-5


class Answers(torch.nn.Module):
    """A denoiser that answers 3 to captions and 1 without one."""

    def __init__(self):
        super().__init__()
        self.offset = torch.nn.Parameter(torch.zeros(()))

    def forward(self, latents, sigma, captions, t5_tokens):
        answers = torch.tensor([3.0 if caption else 1.0 for caption in captions])
        return answers[:, None, None, None].expand_as(latents) + self.offset


def test_a_batch_guides_captions_and_not_the_dropped_ones():
    corpus = LatentCorpus(torch.zeros(20, 8, 16, 16), torch.zeros(20, 8, 16, 16), list(range(20)))
    prompts = [[subject.names[0]] for subject in SUBJECTS]
    generator = torch.Generator().manual_seed(0)
    batch = draw_batch(corpus, prompts, step=0, batch_size=400, seed=0, generator=generator)
    expected = [0.0 if not c else GUIDANCE if ", " in c else PLAIN_GUIDANCE for c in batch.captions]
    assert batch.guidance.tolist() == pytest.approx(expected)
    assert 20 < batch.captions.count("") < 60  # a tenth


def test_guidance_moves_the_target_of_captions_alone():
    velocity = torch.zeros(2, 8, 16, 16)
    batch = Batch(
        torch.randn(2, 8, 16, 16), torch.tensor([0.3, 0.6]), ["a cat", ""], velocity, torch.tensor([0.5, 0]), 8
    )
    model = Answers()
    assert denoising_loss(model, batch, guided=False).item() == pytest.approx((3.0**2 + 1.0**2) / 2)
    # the caption's target is 0 + 0.5 (3 - 1)
    loss = denoising_loss(model, batch, guided=True)
    assert loss.item() == pytest.approx((2.0**2 + 1.0**2) / 2)
    loss.backward()
    assert model.offset.grad.item() == pytest.approx(2.0 + 1.0)  # the target has no gradient


def test_guidance_that_is_learned_is_guidance_that_is_called():
    """A model without a gradient left answers free + (u - free) / (1 - g), as two calls at scale 2 would."""
    half, velocity = torch.tensor([0.5]), torch.full((1, 8, 16, 16), 2.0)
    batch = Batch(torch.randn(1, 8, 16, 16), half, ["a cat"], velocity, half, T5_TOKENS)
    guided = 1.0 + (2.0 - 1.0) / (1 - 0.5)
    assert guided == 3.0  # what Answers says of captions
    assert denoising_loss(Answers(), batch, guided=True).item() == pytest.approx(0.0)


def test_every_weight_has_one_optimizer_and_muon_the_blocks_matrices():
    model = Denoiser(build_tokenizer())
    muon, adamw = build_optimizers(model)
    chosen = [{id(weight) for group in one.param_groups for weight in group["params"]} for one in (muon, adamw)]
    assert chosen[0].isdisjoint(chosen[1])
    assert chosen[0] | chosen[1] == {id(weight) for weight in model.parameters()}
    names = {name for name, weight in model.named_parameters() if id(weight) in chosen[0]}
    assert {name.split(".")[1] for name in names} == {"transformer_blocks"}
    assert sum(weight.numel() for group in muon.param_groups for weight in group["params"]) > 2e6


def test_a_pipelines_weights_are_a_start(untrained, pipeline):
    model = load_denoiser(untrained)
    for part in ("transformer", "text_encoder", "text_encoder_2"):
        weights = getattr(pipeline, part).state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in getattr(model, part).state_dict().items())
    assert {value.dtype for value in model.parameters()} == {torch.float32}


@pytest.mark.usefixtures("eager")
def test_a_killed_training_keeps_its_latents_and_a_finished_one_nothing(monkeypatch, untrained, tmp_path):
    shutil.copytree(untrained / "vae", tmp_path / "vae")
    encoded = []
    monkeypatch.setattr(diffusion, "make_corpus", lambda crops, *, seed: crops)
    monkeypatch.setattr(diffusion, "encode_corpus", lambda vae, crops: encoded.append(crops) or latent_corpus())
    train = diffusion.train_denoiser

    def killed(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(diffusion, "train_denoiser", killed)
    with pytest.raises(KeyboardInterrupt):
        diffusion.make_pipeline(tmp_path, crops=3, steps=1, batch_size=2)
    monkeypatch.setattr(diffusion, "train_denoiser", train)
    diffusion.make_pipeline(tmp_path, start=untrained, crops=3, steps=1, batch_size=2)
    assert encoded == [3]
    assert (tmp_path / "model_index.json").is_file()
    assert not [*tmp_path.glob("*.pt"), *tmp_path.glob("*.ckpt")]


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
        model = Denoiser(build_tokenizer())
        start = {name: value.clone() for name, value in model.state_dict().items()}
        model = train_denoiser(model, latent_corpus(), tmp_path / "training.ckpt", steps=2, batch_size=4, seed=0)
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
    assert seen == [{**expected, "output": Path("there"), "crops": 2, "start": None}]
