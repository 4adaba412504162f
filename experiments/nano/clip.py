"""Train the nano CLIP that judges alignment, in open_clip's ``local-dir`` layout.

    python -m experiments.nano.clip --output data/nano/clip

It sees real and AI-looking crops under the same captions, so that it answers what a picture shows and not how real it
looks.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.nano.augment import light_augment
from experiments.nano.captions import PHOTO_CUES, SYNTHETIC_CUES, cued_caption, plain_prompts, split_prompts
from experiments.nano.corpus import HELD_OUT_CROPS, HELD_OUT_SEED, TRAIN_SEED, Corpus, make_corpus
from experiments.nano.photographs import SUBJECTS
from experiments.nano.tokenizer import MAX_TOKENS, build_tokenizer
from experiments.nano.training import Training, cosine_lr

CROPS, STEPS, BATCH_SIZE, SEED = 100, 1500, 64, 0
"""Of the shipped model; crops are per subject."""
TEMPERATURE = 0.1
"""Of the softmax over similarities, fixed: the reward is the cosine itself, so its scale should be stable."""


def clip_config(vocab_size: int, eos_id: int) -> dict[str, Any]:
    """open_clip's description of the model: a ViT of 64 tokens, a text transformer of 24."""
    half = (0.5, 0.5, 0.5)
    return {
        "model_cfg": {
            "embed_dim": 64,
            "quick_gelu": False,
            "vision_cfg": {"image_size": 64, "layers": 3, "width": 96, "head_width": 32, "patch_size": 8},
            "text_cfg": {
                "context_length": MAX_TOKENS,
                "vocab_size": vocab_size,
                "hf_tokenizer_name": "in this folder",
                "width": 64,
                "heads": 2,
                "layers": 2,
                "pool_type": "eos",
                "eos_id": eos_id,
            },
        },
        "preprocess_cfg": {"mean": half, "std": half, "interpolation": "bicubic", "resize_mode": "squash"},
    }


def draw_caption(subject: int, rng: np.random.Generator) -> str:
    """A caption of any kind: cues say nothing about what a picture shows."""
    kind = rng.random()
    if kind < 0.6:
        return str(rng.choice(plain_prompts(SUBJECTS[subject])))
    return cued_caption(SUBJECTS[subject], rng, PHOTO_CUES if kind < 0.85 else SYNTHETIC_CUES)


def contrastive_loss(images: Tensor, texts: Tensor, subjects: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy (arXiv:2103.00020), with every pair of one subject a match."""
    logits = F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T / TEMPERATURE
    match = (subjects[:, None] == subjects[None]).float()
    target = match / match.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def train_clip(output: Path, corpus: Corpus, *, steps: int, batch_size: int, seed: int) -> nn.Module:
    """Train and write the folder."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import open_clip
    from safetensors.torch import save_file

    output.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(output)
    config = clip_config(len(tokenizer), tokenizer.eos_token_id)
    (output / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    torch.manual_seed(seed)
    model: Any = open_clip.create_model(f"local-dir:{output}", load_weights=False)
    tokenize = open_clip.get_tokenizer(f"local-dir:{output}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05)
    training = Training(output / "training.ckpt", model, optimizer, seed=seed, average=0.998)
    pictures = torch.stack([corpus.real, corpus.ai])
    for step in training.steps(steps, "CLIP"):
        generator = training.generator(step)
        rng = np.random.default_rng([seed, step])
        rows = torch.randint(len(corpus.subjects), (batch_size,), generator=generator)
        looks = torch.randint(2, (batch_size,), generator=generator)
        images = light_augment(pictures[looks, rows].float() / 255, generator)
        subjects = corpus.subjects[rows]
        captions = [draw_caption(subject, rng) for subject in subjects.tolist()]
        texts = model.encode_text(tokenize(captions))
        loss = contrastive_loss(model.encode_image(images * 2 - 1), texts, subjects)
        training.update(loss, lr=cosine_lr(step, steps, peak=1e-3, warmup=100))
    model.load_state_dict(training.averaged)
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, output / "open_clip_model.safetensors")
    return model.eval()


@torch.no_grad()
def evaluate_clip(model: Any, output: Path, corpus: Corpus) -> dict[str, float]:
    """Share of held-out crops that lie nearest their own subject's held-out prompt, one of each, for both looks."""
    import open_clip

    tokenize = open_clip.get_tokenizer(f"local-dir:{output}")
    prompts = dict(reversed(split_prompts()[1]))
    texts = F.normalize(model.encode_text(tokenize([prompts[i] for i in range(len(SUBJECTS))])), dim=-1)
    figures = {}
    for look, pictures in (("real", corpus.real), ("ai", corpus.ai)):
        cosines = F.normalize(model.encode_image(pictures.float() / 127.5 - 1), dim=-1) @ texts.T
        own = cosines.gather(1, corpus.subjects[:, None])[:, 0]
        figures[f"retrieval_{look}"] = float((cosines.argmax(1) == corpus.subjects).float().mean())
        figures[f"cosine_{look}"] = float(own.mean())
        figures[f"cosine_other_{look}"] = float((cosines.sum(1) - own).mean() / (len(SUBJECTS) - 1))
    return figures


def make_clip(
    output: Path,
    *,
    crops: int = CROPS,
    held_out_crops: int = HELD_OUT_CROPS,
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
    seed: int = SEED,
) -> dict[str, float]:
    """Cut the corpora, train, evaluate, and write ``figures.json`` last.

    Args:
        output: Folder of the model.
        crops: Per subject, to train on.
        held_out_crops: Per subject, to evaluate on.
        steps: Of image and text transformer.
        batch_size: Pairs per step.
        seed: Of weights and batches.

    Returns:
        What ``evaluate_clip`` finds.
    """
    corpus = make_corpus(crops, seed=TRAIN_SEED)
    model = train_clip(output, corpus, steps=steps, batch_size=batch_size, seed=seed)
    figures = evaluate_clip(model, output, make_corpus(held_out_crops, seed=HELD_OUT_SEED, held_out=True))
    (output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("data/nano/clip"))
    parser.add_argument("--crops", type=int, default=CROPS, help="crops per subject")
    parser.add_argument("--held_out_crops", type=int, default=HELD_OUT_CROPS, help="per subject, to evaluate on")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch_size", type=int, default=BATCH_SIZE)
    parser.add_argument("--seed", type=int, default=SEED)
    print(json.dumps(make_clip(**vars(parser.parse_args(arguments))), indent=2))


if __name__ == "__main__":
    main()
