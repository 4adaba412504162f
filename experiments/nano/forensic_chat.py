"""Train the nano Forensic-Chat: a tiny Qwen2.5-VL that answers whether a picture is real or fake.

    python -m experiments.nano.forensic_chat --output data/nano/forensic_chat

Transformers' own classes, sizes apart: patches of 8 pixels, so that a picture of 64 pixels is 8 x 8 patches and 4 x 4
tokens of the language model. It sees what the other nano detectors see (``experiments.nano.detectors``) and learns, by
cross-entropy over its whole vocabulary, to open its answer with one of the spellings of the two words. It understands
no other question and no text at all.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from experiments.nano.corpus import HELD_OUT_CROPS
from experiments.nano.detectors import (
    HELD_OUT_SAMPLES,
    SMOOTHING,
    Pictures,
    cosine_filters,
    draw_batch,
    make_pictures,
    picture_arguments,
    write_figures,
)
from experiments.nano.training import Training, cosine_lr
from realgen.detectors.forensic_chat import QUESTION, ForensicChat, ForensicChatNetwork

CROPS, SAMPLES = 60, 1000
"""Of the shipped model: crops per subject, and samples of the nano diffusion model."""
STEPS, BATCH_SIZE, PEAK_LR, SEED = 800, 48, 1e-3, 3
"""Of its training."""
AVERAGE = 0.995
"""Decay of the running average of the weights."""
PIXELS, PATCH_SIZE = 64 * 64, 8
"""Area that every picture is resized to, and the side of a patch."""
INIT_STD = 0.1
"""About 1 / sqrt(96): at Qwen's 0.02, meant for thousands of channels, so narrow a model stays at chance for long."""
VOCABULARY_SIZE = 384
"""Tokens at most: the 256 bytes, what the prompt and the answers give merges for, and Qwen's special tokens."""
REAL_WORDS, FAKE_WORDS = ("real", "Real"), ("fake", "Fake")
SYSTEM = "You are a helpful assistant."
IMAGE, VIDEO, VISION_START, VISION_END = "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if loop.first and message.role != 'system' -%}"
    "{{ '" + TURN_START + "system\\n" + SYSTEM + TURN_END + "\\n' }}"
    "{%- endif -%}"
    "{{ '" + TURN_START + "' + message.role + '\\n' }}"
    "{%- if message.content is string -%}{{ message.content }}"
    "{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}{{ '" + VISION_START + IMAGE + VISION_END + "' }}"
    "{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{ '" + TURN_END + "\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '" + TURN_START + "assistant\\n' }}{%- endif -%}"
)
"""Qwen's conversation: turns in ``<|im_start|>`` and ``<|im_end|>``, a system turn always, images as placeholders."""


def build_tokenizer() -> Any:
    """Train a byte-level tokenizer of Qwen's kind on the prompt and the answers; any other text splits into bytes."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    end, special = "<|endoftext|>", [TURN_START, TURN_END, VISION_START, VISION_END, IMAGE, VIDEO]
    frame = Qwen2Tokenizer().backend_tokenizer
    trained = Tokenizer(models.BPE())
    trained.normalizer, trained.pre_tokenizer = frame.normalizer, frame.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(special),
        special_tokens=[end],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [f"system\n{SYSTEM}", "user\n", "assistant\n", QUESTION, *REAL_WORDS, *FAKE_WORDS]
    trained.train_from_iterator(texts * 2, trainer)  # a pair that is met only once is not merged
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    return Qwen2Tokenizer(vocab=trained.get_vocab(), merges=merges, extra_special_tokens=special, padding_side="left")


def build_processor() -> Any:
    """Tokenizer, chat template and image processor, as ``AutoProcessor`` will read them."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    size = {"patch_size": PATCH_SIZE, "min_pixels": PIXELS, "max_pixels": PIXELS}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**size),
        tokenizer=build_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(**size),
        chat_template=CHAT_TEMPLATE,
    )


def build_model(processor: Any) -> Any:
    """An untrained ``Qwen2_5_VLForConditionalGeneration`` of 0.7 M parameters that starts from ``cosine_filters``."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = processor.tokenizer
    token = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "max_position_embeddings": 2048,
        "initializer_range": INIT_STD,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": None,
        "eos_token_id": token(TURN_END),
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "depth": 3,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_heads": 3,
        "patch_size": PATCH_SIZE,
        "window_size": 64,
        "fullatt_block_indexes": [2],
        "out_hidden_size": 96,
        "initializer_range": INIT_STD,
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token(IMAGE),
        video_token_id=token(VIDEO),
        vision_start_token_id=token(VISION_START),
        vision_end_token_id=token(VISION_END),
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    with torch.no_grad():
        weight = model.get_submodule("model.visual.patch_embed.proj").get_parameter(
            "weight"
        )  # [hidden, 3, frames, 8, 8]
        frames = weight.shape[2]  # a picture is as many equal frames
        weight.copy_(cosine_filters(PATCH_SIZE, len(weight)).unsqueeze(2) / frames)
    return model


def build_network() -> ForensicChatNetwork:
    """Processor and random model under the question that it will be asked."""
    processor = build_processor()
    return ForensicChatNetwork(build_model(processor), processor, QUESTION, REAL_WORDS, FAKE_WORDS)


def answer_targets(
    labels: Float[Tensor, " rows"], network: ForensicChatNetwork, vocabulary: int
) -> Float[Tensor, "rows vocabulary"]:
    """Distribution of the answer's first token: soft labels, shared evenly by the spellings of a word.

    Args:
        labels: 0 for real, 1 for fake.
        network: Knows the spellings.
        vocabulary: Number of tokens.

    Returns:
        Rows that sum to 1.
    """
    fake = (labels * (1 - 2 * SMOOTHING) + SMOOTHING)[:, None]
    targets = labels.new_zeros(len(labels), vocabulary)
    targets[:, network.real_ids] = (1 - fake) / len(network.real_ids)
    targets[:, network.fake_ids] = fake / len(network.fake_ids)
    return targets


def answer_loss(
    logits: Float[Tensor, "rows tokens vocabulary"], targets: Float[Tensor, "rows vocabulary"], image_tokens: int
) -> Float[Tensor, ""]:
    """Cross-entropy of the answer, half of it asked for at every image token already.

    An answer is right wherever it is asked for, and an image token is some layers nearer to the patches than the end of
    the prompt is: without them so small a model finds nothing for long.

    Args:
        logits: From the first image token to the end of the prompt.
        targets: The answer's distribution.
        image_tokens: Number of image tokens.

    Returns:
        The mean of both cross-entropies.
    """
    early = F.cross_entropy(logits[:, :image_tokens].flatten(0, 1), targets.repeat_interleave(image_tokens, dim=0))
    return (F.cross_entropy(logits[:, -1], targets) + early) / 2


def train(
    network: ForensicChatNetwork, pictures: Pictures, output: Path, *, steps: int, batch_size: int, seed: int
) -> None:
    """Train in place, vision and language; the running average of the weights is kept."""
    model = network.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.05)
    training = Training(output / "training.ckpt", model, optimizer, seed=seed, average=AVERAGE)
    for step in training.steps(steps, output.name):
        images, labels = draw_batch(pictures, batch_size // 2, training.generator(step))
        inputs = network.inputs(images)
        is_image = inputs["input_ids"][0] == model.config.image_token_id
        first = int(is_image.int().argmax())
        logits = model(**inputs, use_cache=False, logits_to_keep=len(is_image) - first).logits
        loss = answer_loss(logits, answer_targets(labels, network, logits.shape[-1]), int(is_image.sum()))
        training.update(loss, lr=cosine_lr(step, steps, peak=PEAK_LR, warmup=100))
    model.load_state_dict(training.averaged)


def make_forensic_chat(
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
    """Cut crops, draw samples, train, write the folder, evaluate what was written, and write ``figures.json`` last.

    Args:
        output: Folder of the model and its processor.
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
    pictures = make_pictures(pretrained, per_subject=crops, num_samples=samples, seed=SEED, held_out=False)
    torch.manual_seed(SEED)
    network = build_network()
    train(network, pictures, output, steps=steps, batch_size=batch_size, seed=SEED)
    network.model.half().save_pretrained(output)
    network.processor.save_pretrained(output)
    written = ForensicChat(str(output), dtype="float32").network
    return write_figures(
        written, output, pretrained=pretrained, crops=held_out_crops, samples=held_out_samples, seed=SEED
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parents = [picture_arguments(crops=CROPS, samples=SAMPLES)]
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter, parents=parents)
    parser.add_argument("--output", type=Path, default=Path("data/nano/forensic_chat"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch_size", type=int, default=BATCH_SIZE)
    print(json.dumps(make_forensic_chat(**vars(parser.parse_args(arguments))), indent=2))


if __name__ == "__main__":
    main()
