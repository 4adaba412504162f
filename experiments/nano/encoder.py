"""Train the nano encoder whose features measure distance and diversity, and which no reward ever uses.

    python -m experiments.nano.encoder --output data/nano/encoder

A small timm ResNet learns to tell the subjects and the two looks apart (a class for each pair) on augmented crops.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from experiments.nano.augment import photo_augment
from experiments.nano.corpus import HELD_OUT_CROPS, HELD_OUT_SEED, TRAIN_SEED, Corpus, make_corpus
from experiments.nano.photographs import SUBJECTS
from experiments.nano.training import Training, cosine_lr
from realgen.functional.images import from_uint8
from realgen.metrics.encoder import EncoderConfig, save_encoder

CROPS, STEPS, BATCH_SIZE, SEED = 80, 1200, 48, 7
"""Of the shipped encoder; crops are per subject."""
CONFIG = EncoderConfig(model_name="test_resnet", image_size=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def train_encoder(output: Path, corpus: Corpus, *, steps: int, batch_size: int, seed: int) -> nn.Sequential:
    """Train the network with a linear classifier on top."""
    torch.manual_seed(seed)
    network: Any = CONFIG.network()
    model = nn.Sequential(network, nn.Linear(network.num_features, 2 * len(SUBJECTS)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.05)
    training = Training(output / "training.ckpt", model, optimizer, seed=seed)
    pictures = torch.stack([corpus.real, corpus.ai])
    for step in training.steps(steps, "encoder"):
        generator = training.generator(step)
        rows = torch.randint(len(corpus.subjects), (batch_size,), generator=generator)
        looks = torch.randint(2, (batch_size,), generator=generator)
        images = photo_augment(from_uint8(pictures[looks, rows]), generator)
        loss = F.cross_entropy(model((images - 0.5) / 0.25), 2 * corpus.subjects[rows] + looks, label_smoothing=0.1)
        training.update(loss, lr=cosine_lr(step, steps, peak=2e-3, warmup=100))
    return model.eval()


@torch.no_grad()
def evaluate_encoder(model: nn.Sequential, corpus: Corpus) -> dict[str, float]:
    """Share of held-out crops whose subject, and whose look, is told right."""
    subjects, looks = [], []
    for look, pictures in enumerate((corpus.real, corpus.ai)):
        answer = model((from_uint8(pictures) - 0.5) / 0.25).argmax(1)
        subjects.append((answer // 2 == corpus.subjects).float().mean())
        looks.append((answer % 2 == look).float().mean())
    return {"subject_accuracy": float(sum(subjects) / 2), "look_accuracy": float(sum(looks) / 2)}


def make_encoder(
    output: Path,
    *,
    crops: int = CROPS,
    held_out_crops: int = HELD_OUT_CROPS,
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
    seed: int = SEED,
) -> dict[str, float]:
    """Cut corpora of its own, train, evaluate, and write ``figures.json`` last.

    Args:
        output: Folder of the encoder.
        crops: Per subject, to train on.
        held_out_crops: Per subject, to evaluate on.
        steps: Of the network and its classifier.
        batch_size: Crops per step.
        seed: Of weights and batches.

    Returns:
        What ``evaluate_encoder`` finds.
    """
    corpus = make_corpus(crops, seed=TRAIN_SEED + 1000)
    model = train_encoder(output, corpus, steps=steps, batch_size=batch_size, seed=seed)
    save_encoder(output, model[0], CONFIG)
    figures = evaluate_encoder(model, make_corpus(held_out_crops, seed=HELD_OUT_SEED + 1000, held_out=True))
    (output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("data/nano/encoder"))
    parser.add_argument("--crops", type=int, default=CROPS, help="crops per subject")
    parser.add_argument("--held_out_crops", type=int, default=HELD_OUT_CROPS, help="per subject, to evaluate on")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch_size", type=int, default=BATCH_SIZE)
    parser.add_argument("--seed", type=int, default=SEED)
    print(json.dumps(make_encoder(**vars(parser.parse_args(arguments))), indent=2))


if __name__ == "__main__":
    main()
