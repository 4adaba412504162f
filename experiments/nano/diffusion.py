"""Pretrain the nano text-to-image model and write it as a diffusers ``StableDiffusion3Pipeline`` directory.

    python -m experiments.nano.diffusion --output data/nano/sd3

Plain captions come with AI-looking crops four times of five, captions with photographic cues with real crops: the
model knows both looks, and draws a short prompt with the AI look. That gap is what GRPO closes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from experiments.nano.captions import PHOTO_CUES, SYNTHETIC_CUES, cued_caption, split_prompts
from experiments.nano.corpus import TRAIN_SEED, Corpus, make_corpus
from experiments.nano.photographs import SUBJECTS
from experiments.nano.silent_t5 import silent_t5
from experiments.nano.tokenizer import MAX_TOKENS, build_tokenizer
from experiments.nano.training import Training, trapezoid_lr
from experiments.nano.vae import load_vae

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

CROPS, STEPS, BATCH_SIZE, SEED = 400, 16000, 48, 0
"""Of the shipped model; crops are per subject."""
HIDDEN, LAYERS, HEADS = 128, 5, 4
TEXT_HIDDEN = 64
T5_TOKENS = 8
"""Zero tokens that stand for the absent T5 encoder; ``max_sequence_length`` of the pipeline."""
LONG_T5_TOKENS, LONG_EVERY = 256, 20
"""The pipeline's default ``max_sequence_length``, seen in one step of twenty, so that a plain call works as well."""
PEAK_LR, AVERAGE = 1e-3, 0.998
"""Highest learning rate, and decay of the running average of the weights."""
GUIDANCE, PLAIN_GUIDANCE, GUIDED_SHARE = 0.5, 0.15, 0.25
"""Guidance that is learned with cued and with plain captions, and the share of the steps, the last, that learn it.
Strong guidance of plain captions would draw the AI look always; then no group of samples holds what GRPO looks for."""
SIGMA_SHIFTS, SAMPLING_SHIFT = (1.0, 3.0, 0.5), 2.0
"""Shifts of the noise levels, in turn: all levels, those that decide the layout (SD3, section 5.3.2), and those that
decide texture; and the shift of the scheduler that the pipeline is written with."""
DROP_CAPTION = 0.1
"""Share of captions replaced by the empty one, for classifier-free guidance."""


def build_transformer() -> SD3Transformer2DModel:
    """An MMDiT of 3 M parameters on 8 x 16 x 16 latents."""
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=8,
        num_layers=LAYERS,
        attention_head_dim=HIDDEN // HEADS,
        num_attention_heads=HEADS,
        joint_attention_dim=2 * TEXT_HIDDEN,
        caption_projection_dim=HIDDEN,
        pooled_projection_dim=2 * TEXT_HIDDEN,
        out_channels=8,
        pos_embed_max_size=16,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """A CLIP text encoder of two layers; SD3 has two of them."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_HIDDEN,
        intermediate_size=2 * TEXT_HIDDEN,
        projection_dim=TEXT_HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config)


class Denoiser(nn.Module):
    """Transformer and text encoders, trained together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.transformer = build_transformer()
        self.text_encoder = build_text_encoder(tokenizer)
        self.text_encoder_2 = build_text_encoder(tokenizer)
        self.tokenizer = tokenizer

    def encode(self, captions: list[str], t5_tokens: int) -> tuple[Tensor, Tensor]:
        """Embed captions the way ``StableDiffusion3Pipeline`` does without T5.

        Returns:
            Token embeddings [rows, MAX_TOKENS + t5_tokens, 2 * TEXT_HIDDEN] and pooled ones [rows, 2 * TEXT_HIDDEN].
        """
        ids = self.tokenizer(
            captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
        ).input_ids
        outputs = [encoder(ids, output_hidden_states=True) for encoder in (self.text_encoder, self.text_encoder_2)]
        tokens = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        zeros = tokens.new_zeros(len(captions), t5_tokens, tokens.shape[-1])
        return torch.cat([tokens, zeros], dim=1), torch.cat([output.text_embeds for output in outputs], dim=-1)

    def forward(self, latents: Tensor, sigma: Tensor, captions: list[str], t5_tokens: int) -> Tensor:
        """Velocity (noise minus data) at noise level ``sigma`` [rows]."""
        tokens, pooled = self.encode(captions, t5_tokens)
        return self.transformer(latents, tokens, pooled, sigma * 1000, return_dict=False)[0]


@dataclass(frozen=True)
class LatentCorpus:
    """A corpus as latents; rows of ``real`` and ``ai`` belong together."""

    real: Float[Tensor, "crops 8 16 16"]
    ai: Float[Tensor, "crops 8 16 16"]
    subjects: list[int]


@torch.no_grad()
def encode_corpus(vae: AutoencoderKL, corpus: Corpus) -> LatentCorpus:
    """Encode every crop once (posterior means, scaled as the pipeline scales them)."""

    def encode(pictures: Tensor) -> Tensor:
        chunks = tqdm(pictures.split(64), desc="encoding", leave=False)
        means = torch.cat([vae.encode(chunk.float() / 127.5 - 1).latent_dist.mean for chunk in chunks])
        return (means - vae.config.shift_factor) * vae.config.scaling_factor

    return LatentCorpus(encode(corpus.real), encode(corpus.ai), corpus.subjects.tolist())


def draw_caption(subject: int, prompts: list[list[str]], rng: np.random.Generator) -> tuple[str, bool, float]:
    """Draw a caption of a subject, whether it comes with the AI-looking crop, and its guidance."""
    kind = rng.random()
    if kind < 0.55:
        return str(rng.choice(prompts[subject])), rng.random() < 0.8, PLAIN_GUIDANCE
    if kind < 0.87:
        return cued_caption(SUBJECTS[subject], rng, PHOTO_CUES), rng.random() < 0.02, GUIDANCE
    return cued_caption(SUBJECTS[subject], rng, SYNTHETIC_CUES), rng.random() < 0.97, GUIDANCE


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """Noise levels moved towards noise: shift sigma / (1 + (shift - 1) sigma), as diffusers' schedulers do it.

    Example:
        >>> shifted(torch.tensor([0.0, 0.5, 1.0]), 3.0)
        tensor([0.0000, 0.7500, 1.0000])
    """
    return shift * sigma / (1 + (shift - 1) * sigma)


def draw_sigma(rows: int, shift: float, generator: torch.Generator) -> Float[Tensor, " rows"]:
    """Logit-normal noise levels (SD3, arXiv:2403.03206, section 3.1), shifted, one from each of equally many quantiles.

    Independent draws would leave gaps between the levels of a batch, which make its gradient noisier.
    """
    quantiles = (torch.randperm(rows, generator=generator) + torch.rand(rows, generator=generator)) / rows
    return shifted(torch.special.ndtri(quantiles.clamp(1e-5, 1 - 1e-5)).sigmoid(), shift)


@dataclass(frozen=True)
class Batch:
    """What the denoiser sees in one step, and what it should answer."""

    noisy: Float[Tensor, "rows 8 16 16"]
    """(1 - sigma) data + sigma noise."""
    sigma: Float[Tensor, " rows"]
    """Noise levels."""
    captions: list[str]
    """Empty where the caption was dropped."""
    velocity: Float[Tensor, "rows 8 16 16"]
    """Noise minus data."""
    guidance: Float[Tensor, " rows"]
    """Of each caption, to be learned in the last steps; 0 without a caption."""
    t5_tokens: int
    """Zero tokens behind the caption's."""


def draw_batch(
    corpus: LatentCorpus, prompts: list[list[str]], *, step: int, batch_size: int, seed: int, generator: torch.Generator
) -> Batch:
    """Draw rows, captions, looks, noise and noise levels of a step."""
    rng = np.random.default_rng([seed, step])
    long = step % LONG_EVERY == LONG_EVERY - 1
    rows = torch.randint(len(corpus.subjects), (batch_size // 4 if long else batch_size,), generator=generator)
    drawn = [draw_caption(corpus.subjects[row], prompts, rng) for row in rows.tolist()]
    captions = ["" if rng.random() < DROP_CAPTION else caption for caption, _, _ in drawn]
    ai = torch.tensor([look for _, look, _ in drawn])
    guidance = torch.tensor([strength if kept else 0.0 for kept, (*_, strength) in zip(captions, drawn, strict=True)])
    data = torch.where(ai[:, None, None, None], corpus.ai[rows], corpus.real[rows])
    noise = torch.randn(data.shape, generator=generator)
    sigma = draw_sigma(len(rows), SIGMA_SHIFTS[step % len(SIGMA_SHIFTS)], generator)
    level = sigma[:, None, None, None]
    noisy = (1 - level) * data + level * noise
    return Batch(noisy, sigma, captions, noise - data, guidance, LONG_T5_TOKENS if long else T5_TOKENS)


def denoising_loss(model: Denoiser, batch: Batch, *, guided: bool) -> Tensor:
    """Flow matching with a velocity target, and with ``guided`` one whose answer to captions is guided.

    The target u of a row with a caption c and guidance g becomes

        u + g (v(c) - v(no caption)),    both v without gradient

    so that the model learns the velocity that guidance of the scale 1 / (1 - g) would have made of two calls
    (Tang et al., "Diffusion Models without Classifier-free Guidance", arXiv:2502.12154).
    """
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        velocity = model(batch.noisy, batch.sigma, batch.captions, batch.t5_tokens).float()
        target = batch.velocity
        if guided:
            with torch.no_grad():
                free = model(batch.noisy, batch.sigma, [""] * len(batch.captions), batch.t5_tokens).float()
            target = target + batch.guidance[:, None, None, None] * (velocity.detach() - free)
    return (velocity - target).square().mean()


def build_optimizers(model: Denoiser) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the transformer's blocks, AdamW for all other weights.

    Muon's updates are scaled to AdamW's size, so that one learning rate serves both (Liu et al., arXiv:2502.16982).
    """
    named = [("transformer_blocks" in name and weight.ndim == 2, weight) for name, weight in model.named_parameters()]
    matrices = [weight for is_matrix, weight in named if is_matrix]
    others = [weight for is_matrix, weight in named if not is_matrix]
    return [
        torch.optim.Muon(matrices, lr=PEAK_LR, weight_decay=1e-2, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=PEAK_LR, betas=(0.9, 0.99), weight_decay=1e-2),
    ]


def train_denoiser(
    model: Denoiser, corpus: LatentCorpus, checkpoint: Path, *, steps: int, batch_size: int, seed: int
) -> Denoiser:
    """Train on latents; the last ``GUIDED_SHARE`` of the steps teach guidance while the learning rate falls.

    Guidance comes last because it costs a third call of the model, and because it needs a model that tells captions
    apart.
    """
    # Backward of fused attention takes half of a step at 96 tokens on a CPU, plain products a tenth. Without this
    # switch, which a CPU obeys in spite of its name, they would be computed in float32.
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    training = Training(checkpoint, model, build_optimizers(model), seed=seed, average=AVERAGE)
    prompts: list[list[str]] = [[] for _ in SUBJECTS]
    for subject, prompt in split_prompts()[0]:
        prompts[subject].append(prompt)
    for step in training.steps(steps, "SD3"):
        generator = training.generator(step)
        batch = draw_batch(corpus, prompts, step=step, batch_size=batch_size, seed=seed, generator=generator)
        loss = denoising_loss(model, batch, guided=step >= steps * (1 - GUIDED_SHARE))
        training.update(loss, lr=trapezoid_lr(step, steps, peak=PEAK_LR, warmup=200, decay=GUIDED_SHARE))
    model.load_state_dict(training.averaged)
    return model.eval()


def assemble(model: Denoiser, vae: AutoencoderKL) -> StableDiffusion3Pipeline:
    """The parts as a pipeline, transformer and VAE in the half precision in which they are stored.

    The text encoders stay in float32: transformers loads a model in the precision of its file, diffusers in float32,
    and a plain ``from_pretrained`` must give one type.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    pipeline = StableDiffusion3Pipeline(
        transformer=model.transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SAMPLING_SHIFT),
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        text_encoder_2=model.text_encoder_2,
        tokenizer_2=model.tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipeline.transformer.half()
    pipeline.vae.half()
    return pipeline


def load_denoiser(pretrained: Path) -> Denoiser:
    """Read transformer and text encoders of a pipeline, to train them further."""
    from safetensors.torch import load_file

    model = Denoiser(build_tokenizer())
    files = {"transformer": "diffusion_pytorch_model", "text_encoder": "model", "text_encoder_2": "model"}
    for part, name in files.items():
        weights = load_file(pretrained / part / f"{name}.safetensors")
        model.get_submodule(part).load_state_dict({key: value.float() for key, value in weights.items()})
    return model


def load_latents(path: Path, vae: AutoencoderKL, crops: int) -> LatentCorpus:
    """Read the latents that an interrupted training left at ``path``, or make and leave them there."""
    if not path.is_file():
        corpus = encode_corpus(vae, make_corpus(crops, seed=TRAIN_SEED))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        torch.save(vars(corpus), temporary)
        temporary.replace(path)
    return LatentCorpus(**torch.load(path, weights_only=True))


def make_pipeline(
    output: Path,
    *,
    start: Path | None = None,
    crops: int = CROPS,
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
    seed: int = SEED,
) -> StableDiffusion3Pipeline:
    """Train on the latents of the VAE in ``output/vae`` and write the pipeline.

    Args:
        output: Folder of the pipeline. While training it also holds the latents and the last checkpoint.
        start: Folder of a pipeline with a VAE of the same encoder, whose weights are trained further; None begins with
            random ones.
        crops: Per subject.
        steps: Of transformer and text encoders.
        batch_size: Latents per step.
        seed: Of weights and batches.

    Returns:
        The pipeline, in the precision in which it was written.
    """
    vae, kept = load_vae(output / "vae").float().eval(), output / "latents.pt"
    latents = load_latents(kept, vae, crops)
    torch.manual_seed(seed)
    model = Denoiser(build_tokenizer()) if start is None else load_denoiser(start)
    model = train_denoiser(model, latents, output / "training.ckpt", steps=steps, batch_size=batch_size, seed=seed)
    pipeline = silent_t5(assemble(model, vae))
    pipeline.save_pretrained(output)
    kept.unlink()
    return pipeline


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("data/nano/sd3"), help="holds vae/ already")
    parser.add_argument("--start", type=Path, help="pipeline whose weights are trained further (default: random ones)")
    parser.add_argument("--crops", type=int, default=CROPS, help="crops per subject")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch_size", type=int, default=BATCH_SIZE)
    parser.add_argument("--seed", type=int, default=SEED)
    make_pipeline(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
