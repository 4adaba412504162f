"""Train the nano detectors on real crops against samples of the nano diffusion model.

    python -m experiments.nano.detectors --detector omniaid --output data/nano/omniaid
    python -m experiments.nano.detectors --detector effort --output data/nano/effort

Real: held-in crops, as they are and after a round trip through the VAE (what the policy cannot change must not give it
away), under mild augmentation. Generated: samples of prompts that ask for the AI look, AI-looking crops, and every way
of cheating that ``corruptions.CHEATS`` knows, made from photographs and samples alike. Both detectors are trained
whole, from a random CLIP vision tower, each on crops, towers and seeds of its own; Effort is never a reward.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from experiments.nano.augment import light_augment, photo_augment
from experiments.nano.captions import SYNTHETIC_CUES, split_prompts
from experiments.nano.corpus import HELD_OUT_CROPS, HELD_OUT_SEED, TRAIN_SEED, make_corpus
from experiments.nano.training import Training, cosine_lr
from realgen.detectors.base import DetectorNetwork
from realgen.detectors.checkpoint import save
from realgen.detectors.configs import RoutedExperts, VisionConfig
from realgen.detectors.effort import EffortNetwork
from realgen.detectors.omniaid import OmniAIDNetwork
from realgen.detectors.vision_towers import build_tower
from realgen.functional.corruptions import CHEATS
from realgen.functional.images import from_uint8, jpeg_round_trip, to_uint8

CROPS, SAMPLES, HELD_OUT_SAMPLES = 100, 2000, 240
"""Of the shipped detectors: crops per subject, and samples of the nano model to train and to evaluate on."""
STEPS, BATCH_SIZE, SEEDS = 4000, 64, {"effort": 1, "omniaid": 2}
"""Of the shipped detectors; each has crops, samples and weights of its own."""
SMOOTHING = 0.05
"""Soft labels 0.05 and 0.95 keep the probabilities away from the ends, so that a reward still has a slope there."""
TOWERS = {
    "omniaid": VisionConfig(
        hidden_size=96, intermediate_size=192, num_hidden_layers=3, num_attention_heads=3, patch_size=8, image_size=64
    ),
    "effort": VisionConfig(
        hidden_size=80, intermediate_size=240, num_hidden_layers=4, num_attention_heads=5, patch_size=16, image_size=64
    ),
}
"""The tower of each detector."""


@dataclass(frozen=True)
class Pictures:
    """What a detector learns from or is tested on."""

    real: UInt8[Tensor, "crops 3 size size"]
    """Photographs."""
    decoded: UInt8[Tensor, "crops 3 size size"]
    """The same after a round trip through the VAE."""
    ai: UInt8[Tensor, "crops 3 size size"]
    """AI-looking crops after a round trip."""
    samples: UInt8[Tensor, "samples 3 size size"]
    """Samples of the nano model for prompts that ask for the AI look."""


@torch.no_grad()
def draw_samples(
    pretrained: Path, prompts: list[str], *, seed: int, num_steps: int = 16
) -> UInt8[Tensor, "rows 3 h w"]:
    """Draw one picture per prompt with the plain diffusers pipeline, without guidance."""
    from diffusers import StableDiffusion3Pipeline

    from experiments.nano.diffusion import T5_TOKENS

    # Its T5 answers zeros; diffusers puts the same zeros where there is none.
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        pretrained, text_encoder_3=None, tokenizer_3=None, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    chunks = [prompts[start : start + 48] for start in range(0, len(prompts), 48)]
    pictures = []
    for chunk in tqdm(chunks, desc="sampling", unit="batch"):
        images = pipeline(
            chunk,
            num_inference_steps=num_steps,
            guidance_scale=1.0,
            max_sequence_length=T5_TOKENS,
            generator=generator,
            output_type="pt",
        ).images
        pictures.append(to_uint8(images))
    return torch.cat(pictures)


@torch.no_grad()
def round_trip(pretrained: Path, pictures: Tensor) -> Tensor:
    """Encode and decode pictures with the VAE."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(pretrained / "vae", local_files_only=True).eval()
    chunks = tqdm(pictures.split(64), desc="round trip", unit="batch", leave=False)
    return torch.cat([to_uint8((vae(chunk.float() / 127.5 - 1).sample / 2 + 0.5).clamp(0, 1)) for chunk in chunks])


def make_pictures(pretrained: Path, *, per_subject: int, num_samples: int, seed: int, held_out: bool) -> Pictures:
    """Cut crops and draw samples of prompts that ask for the AI look; held-out ones come from validation prompts.

    Plain prompts are drawn with either look, and a sample that looks like a photograph must not count as generated.
    """
    corpus = make_corpus(per_subject, seed=(HELD_OUT_SEED if held_out else TRAIN_SEED) + seed, held_out=held_out)
    prompts = [prompt for _, prompt in split_prompts()[1 if held_out else 0]]
    cues = np.random.default_rng(seed).choice(SYNTHETIC_CUES, num_samples)
    chosen = [f"{prompts[i % len(prompts)]}, {cue}" for i, cue in enumerate(cues)]
    return Pictures(
        real=corpus.real,
        decoded=round_trip(pretrained, corpus.real),
        ai=round_trip(pretrained, corpus.ai),
        samples=draw_samples(pretrained, chosen, seed=seed + 17 * held_out),
    )


def draw_batch(pictures: Pictures, half: int, generator: torch.Generator) -> tuple[Float[Tensor, "rows 3 h w"], Tensor]:
    """Half real, half generated; labels 0 and 1.

    Of the generated half, an eighth are AI-looking crops and six sixteenths corrupted pictures, as many of each kind;
    the rest are samples.
    """

    def pick(source: Tensor, rows: int) -> Tensor:
        return from_uint8(source[torch.randint(len(source), (rows,), generator=generator)])

    real = torch.cat([pick(pictures.real, half // 2), pick(pictures.decoded, half - half // 2)])
    num_ai, num_of_kind = half // 8, max(half // 16, 1)
    num_samples = half - num_ai - num_of_kind * len(CHEATS)
    generated = torch.cat([pick(pictures.samples, num_samples), pick(pictures.ai, num_ai)])
    sources = (pictures.real, pictures.decoded, pictures.samples)
    chosen = torch.randint(len(sources), (len(CHEATS),), generator=generator).tolist()
    corrupted = torch.cat(
        [
            corrupt(pick(sources[source], num_of_kind), generator)
            for corrupt, source in zip(CHEATS.values(), chosen, strict=True)
        ]
    )
    real, generated = photo_augment(real, generator), photo_augment(generated, generator)
    images = torch.cat([real, generated, light_augment(corrupted, generator)])
    labels = torch.cat([torch.zeros(half), torch.ones(half)])
    flipped = torch.rand((), generator=generator) < 0.5
    return images.flip(-1) if flipped else images, labels


def cosine_filters(patch_size: int, count: int) -> Float[Tensor, "count 3 patch patch"]:
    """Patch filters that see frequencies: cosines over a patch, most of luma, at least a quarter of two chromas.

    Each grows with its frequency, against the fall of a photograph's spectrum, so that fine texture counts as much as
    shading: from random filters a small tower hardly finds noise and grids.

    Args:
        patch_size: Side of a patch in pixels.
        count: Number of filters.

    Returns:
        Filters that weigh red, green and blue by (1, 1, 1), (1, -1, 0) or (0.5, 0.5, -1), of norm (1 + frequency) / 4
        in a colour of weight 1; the frequency counts half waves per patch.
    """
    place = torch.arange(patch_size) + 0.5
    waves = torch.cos(torch.pi * torch.arange(patch_size)[:, None] * place / patch_size)  # [frequency, place]
    frequencies = sorted(
        ((x, y) for x in range(patch_size) for y in range(patch_size)), key=lambda wave: (max(wave), sum(wave))
    )
    most_luma = count - count // 4
    luma = frequencies[:: max(patch_size**2 // most_luma, 1)][:most_luma]
    chroma = [frequencies[index // 2] for index in range(count - len(luma))]
    chroma_axes = torch.tensor([[1.0, -1.0, 0.0], [0.5, 0.5, -1.0]])
    axes = [torch.ones(3)] * len(luma) + [chroma_axes[index % 2] for index in range(len(chroma))]
    filters = []
    for (x, y), axis in zip(luma + chroma, axes, strict=True):
        wave = waves[y][:, None] * waves[x]
        filters.append(axis[:, None, None] * wave / wave.norm() * (1 + (x * x + y * y) ** 0.5) / 4)
    return torch.stack(filters)


def build_network(detector: str) -> DetectorNetwork:
    """A detector on an untrained tower with ``cosine_filters``, all of it trainable."""
    tower = build_tower(TOWERS[detector])
    with torch.no_grad():
        weight = tower.get_submodule("embeddings.patch_embedding").get_parameter("weight")
        weight.copy_(cosine_filters(weight.shape[-1], len(weight)))
    network: OmniAIDNetwork | EffortNetwork
    if detector == "omniaid":
        network = OmniAIDNetwork.from_clip_vision(tower, RoutedExperts(6, rank=4, top_k=2, router_hidden=32))
    else:
        network = EffortNetwork.from_clip_vision(tower)
    network.set_trainable("all")
    return network


def train_detector(
    network: DetectorNetwork, pictures: Pictures, output: Path, *, steps: int, batch_size: int, seed: int
) -> DetectorNetwork:
    """Binary cross-entropy with soft labels; the running average of the weights is kept."""
    parameters = network.trainable_parameters().values()
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05)
    training = Training(output / "training.ckpt", network, optimizer, seed=seed, average=0.998)
    for step in training.steps(steps, output.name):
        images, labels = draw_batch(pictures, batch_size // 2, training.generator(step))
        logits = network(images)
        target = labels * (1 - 2 * SMOOTHING) + SMOOTHING
        loss = F.binary_cross_entropy_with_logits(logits[:, 1] - logits[:, 0], target)
        training.update(loss, lr=cosine_lr(step, steps, peak=1e-3, warmup=200))
    network.load_state_dict(training.averaged)
    return network.eval()


@torch.no_grad()
def evaluate_detector(network: nn.Module, pictures: Pictures) -> dict[str, float]:
    """Accuracy on held-out pictures, at p_fake = 0.5.

    Returns:
        ``balanced_accuracy`` of real crops against samples; ``real_*`` = share judged real of photographs, of their
        round trips and of JPEG files; ``fake_*`` = share judged generated of samples, AI-looking crops and of
        photographs under each corruption.
    """
    generator = torch.Generator().manual_seed(0)

    def judged_fake(images: Tensor) -> float:
        p_fake = torch.cat([network(chunk).softmax(-1)[:, 1] for chunk in images.split(64)])
        return float((p_fake > 0.5).float().mean())

    real = from_uint8(pictures.real)
    figures = {
        "real_crops": 1 - judged_fake(real),
        "real_round_trip": 1 - judged_fake(from_uint8(pictures.decoded)),
        "real_jpeg_75": 1 - judged_fake(jpeg_round_trip(real, 75)),
        "fake_samples": judged_fake(from_uint8(pictures.samples)),
        "fake_samples_jpeg_75": judged_fake(jpeg_round_trip(from_uint8(pictures.samples), 75)),
        "fake_ai_looking": judged_fake(from_uint8(pictures.ai)),
    }
    figures |= {f"fake_{name}": judged_fake(corrupt(real, generator)) for name, corrupt in CHEATS.items()}
    return {"balanced_accuracy": (figures["real_crops"] + figures["fake_samples"]) / 2, **figures}


def write_figures(
    network: nn.Module, output: Path, *, pretrained: Path, crops: int, samples: int, seed: int
) -> dict[str, float]:
    """Evaluate a detector on held-out pictures and write ``figures.json``, the last file of its folder.

    Args:
        network: Of the detector.
        output: Its folder.
        pretrained: The nano diffusion model.
        crops: Per subject, to evaluate on.
        samples: Of held-out prompts, to evaluate on.
        seed: Of crops and samples.

    Returns:
        What ``evaluate_detector`` finds.
    """
    pictures = make_pictures(pretrained, per_subject=crops, num_samples=samples, seed=seed, held_out=True)
    figures = evaluate_detector(network, pictures)
    (output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def make_detector(
    detector: str,
    output: Path,
    *,
    pretrained: Path,
    crops: int = CROPS,
    samples: int = SAMPLES,
    held_out_crops: int = HELD_OUT_CROPS,
    held_out_samples: int = HELD_OUT_SAMPLES,
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
) -> dict[str, float]:
    """Cut crops, draw samples, train, evaluate, and write ``figures.json`` last.

    Args:
        detector: ``omniaid`` or ``effort``.
        output: Folder of the detector.
        pretrained: The nano diffusion model.
        crops: Per subject, to train on.
        samples: Of the nano diffusion model, to train on.
        held_out_crops: Per subject, to evaluate on.
        held_out_samples: Of held-out prompts, to evaluate on.
        steps: Of the whole network.
        batch_size: Pictures per step, half of them real.

    Returns:
        What ``evaluate_detector`` finds.
    """
    seed = SEEDS[detector]
    pictures = make_pictures(pretrained, per_subject=crops, num_samples=samples, seed=seed, held_out=False)
    torch.manual_seed(seed)
    network = build_network(detector)
    network = train_detector(network, pictures, output, steps=steps, batch_size=batch_size, seed=seed)
    save(network, output)
    return write_figures(
        network, output, pretrained=pretrained, crops=held_out_crops, samples=held_out_samples, seed=seed
    )


def picture_arguments(
    *, crops: int, samples: int, held_out_crops: int = HELD_OUT_CROPS, held_out_samples: int = HELD_OUT_SAMPLES
) -> argparse.ArgumentParser:
    """A parent for the parsers of commands that need ``make_pictures``; the numbers are the defaults."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--pretrained", type=Path, default=Path("data/nano/sd3"), help="the nano diffusion model")
    parser.add_argument("--crops", type=int, default=crops, help="crops per subject")
    parser.add_argument("--samples", type=int, default=samples, help="samples of the nano diffusion model")
    parser.add_argument("--held_out_crops", type=int, default=held_out_crops, help="per subject, to evaluate on")
    parser.add_argument("--held_out_samples", type=int, default=held_out_samples, help="to evaluate on")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parents = [picture_arguments(crops=CROPS, samples=SAMPLES)]
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter, parents=parents)
    parser.add_argument("--detector", choices=sorted(TOWERS), required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch_size", type=int, default=BATCH_SIZE)
    print(json.dumps(make_detector(**vars(parser.parse_args(arguments))), indent=2))


if __name__ == "__main__":
    main()
