"""Train the nano language model that rewrites prompts: a tiny Qwen3 with a tokenizer of its own.

    python -m experiments.nano.llm --output data/nano/llm

Supervised fine-tuning from nothing on the pairs of ``experiments.nano.rewrites``: cross-entropy of the completion
alone. It understands no language; it copies the prompt and adds cues, in think/answer format.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from experiments.nano.captions import PHOTO_CUES, SYNTHETIC_CUES, plain_prompts, split_prompts
from experiments.nano.photographs import SUBJECTS
from experiments.nano.rewrites import UNSEEN_PROMPTS, added_cues, draw_completion, draw_prompt
from experiments.nano.training import Training, cosine_lr
from realgen.policies import PromptPolicy
from realgen.policies.chat import TAGS

STEPS, BATCH_SIZE, PEAK_LR, SEED = 2200, 32, 4e-3, 0
"""Of the shipped model."""
POOL = 8
"""Steps whose conversations are drawn together."""
AVERAGE = 0.99
"""Decay of the running average of the weights."""
REWRITES_PER_PROMPT, EVAL_SEED = 4, 4242
"""Of the evaluation."""
VOCABULARY_SIZE = 512
INIT_STD = 0.1
"""About 1 / sqrt(96): at Qwen's 0.02, meant for thousands of channels, so narrow a model stays at chance for long."""
END, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '" + TURN_START + "' + message.role + '\\n' + message.content + '" + TURN_END + "\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '" + TURN_START + "assistant\\n' }}{%- endif -%}"
)
"""Qwen's conversation without a system turn."""


def build_tokenizer() -> Any:
    """Train byte-level merges on captions, cues and the words around them; any other text splits into bytes."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    frame = Qwen2Tokenizer().backend_tokenizer
    trained = Tokenizer(models.BPE())
    trained.normalizer, trained.pre_tokenizer = frame.normalizer, frame.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - 2 - len(TAGS),
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    prompts = [prompt for subject in SUBJECTS for prompt in plain_prompts(subject)]
    cues = [f"a photo, {cue}" for cue in (*PHOTO_CUES, *SYNTHETIC_CUES)]
    trained.train_from_iterator([*prompts, *cues * 20, *["user\n", "assistant\n", "as a photo:"] * 50], trainer)
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=trained.get_vocab(), merges=merges, extra_special_tokens=[TURN_START, TURN_END], eos_token=TURN_END
    )
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])  # plain tokens, as Qwen3's are
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(tokenizer: Any) -> Any:
    """A random ``Qwen3ForCausalLM`` of 0.4 M parameters for this tokenizer."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=3,
        head_dim=32,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        initializer_range=INIT_STD,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def draw_batches(
    tokenizer: Any, batch_size: int, *, seed: int, first_step: int = 0
) -> Iterator[tuple[Int[Tensor, "rows length"], Int[Tensor, "rows length"]]]:
    """Conversations, and their tokens to be learned: the completion and the end of the turn.

    Conversations for ``POOL`` steps are drawn at a time and dealt out by length, which spares most of the padding.

    Args:
        tokenizer: Of the model.
        batch_size: Rows.
        seed: Chooses prompts and cues, together with the step.
        first_step: The step that the first batch is for.

    Yields:
        Tokens, padded on the right, and the same with -100 where there is nothing to learn; without end.
    """
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    for block in count(first_step // POOL):
        rng = np.random.default_rng([seed, block])
        pool = sorted((_conversation(tokenizer, rng) for _ in range(batch_size * POOL)), key=lambda pair: len(pair[0]))
        skipped = first_step % POOL if block == first_step // POOL else 0
        for number in rng.permutation(POOL)[skipped:].tolist():
            pairs = pool[number * batch_size :][:batch_size]
            tokens = [torch.tensor(head + tail) for head, tail in pairs]
            targets = [torch.tensor([-100] * len(head) + tail) for head, tail in pairs]
            yield pad(tokens, padding_value=tokenizer.pad_token_id), pad(targets, padding_value=-100)


def _conversation(tokenizer: Any, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Tokens of a question and of its answer."""
    prompt = draw_prompt(rng)
    turn = [{"role": "user", "content": prompt}]
    asked = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    head, tail = tokenizer([asked, draw_completion(prompt, rng) + TURN_END], add_special_tokens=False)["input_ids"]
    return head, tail


def completion_loss(
    logits: Float[Tensor, "rows length vocabulary"], targets: Int[Tensor, "rows length"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy of each target given all before it; -100 counts in nothing."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), ignore_index=-100)


def train(model: Any, tokenizer: Any, output: Path, *, steps: int, batch_size: int, seed: int) -> None:
    """Train in place; the running average of the weights is kept."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01)
    training = Training(output / "training.ckpt", model, optimizer, seed=seed, average=AVERAGE)
    batches = draw_batches(tokenizer, batch_size, seed=seed, first_step=training.first_step)
    for step in training.steps(steps, output.name):
        tokens, targets = next(batches)
        loss = completion_loss(model(input_ids=tokens, use_cache=False).logits, targets)
        training.update(loss, lr=cosine_lr(step, steps, peak=PEAK_LR, warmup=min(100, steps // 4)))
    model.load_state_dict(training.averaged)


def evaluate_llm(output: Path, *, rewrites_per_prompt: int = REWRITES_PER_PROMPT) -> dict[str, float]:
    """Rewrite held-out prompts at temperature 1.

    Args:
        output: Folder of the model.
        rewrites_per_prompt: How often each prompt is rewritten.

    Returns:
        ``format_rate``; ``content_kept`` = share of rewrites that hold the prompt word by word; ``photo_cues`` = share
        that add a photographic cue; ``synthetic_cues`` = share that add a glossy one; ``distinct_suffixes`` = different
        additions over rewrites; ``format_rate_unseen`` and ``content_kept_unseen`` = of prompts of other words.
    """
    policy = PromptPolicy(str(output), instruction="{prompt}", max_prompt_tokens=128, max_tokens=128)
    policy.load()
    figures = {}
    for suffix, prompts in {"": [prompt for _, prompt in split_prompts()[1]], "_unseen": list(UNSEEN_PROMPTS)}.items():
        rollout = policy.rollout(prompts, rewrites_per_prompt, generator=torch.Generator().manual_seed(EVAL_SEED))
        rows = list(zip(rollout.row_prompts, rollout.rewrites or (), strict=True))
        formatted = [(prompt, rewrite.text) for prompt, rewrite in rows if rewrite.formatted]
        added = [cues for cues in (added_cues(prompt, text) for prompt, text in formatted) if cues is not None]
        figures[f"format_rate{suffix}"] = len(formatted) / len(rows)
        figures[f"content_kept{suffix}"] = len(added) / len(rows)
        if not suffix:
            figures["photo_cues"] = sum(bool(set(cues) & set(PHOTO_CUES)) for cues in added) / len(rows)
            figures["synthetic_cues"] = sum(bool(set(cues) & set(SYNTHETIC_CUES)) for cues in added) / len(rows)
            figures["distinct_suffixes"] = len(set(added)) / len(rows)
    return figures


def make_llm(output: Path, *, steps: int = STEPS, batch_size: int = BATCH_SIZE, seed: int = SEED) -> dict[str, float]:
    """Train, write the folder, evaluate what was written, and write ``figures.json`` last.

    Args:
        output: Folder of the model and its tokenizer.
        steps: Of the whole model.
        batch_size: Conversations per step.
        seed: Of weights and batches.

    Returns:
        What ``evaluate_llm`` finds.
    """
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    train(model, tokenizer, output, steps=steps, batch_size=batch_size, seed=seed)
    model.half().save_pretrained(output)
    tokenizer.save_pretrained(output)
    figures = evaluate_llm(output)
    (output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("data/nano/llm"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch_size", type=int, default=BATCH_SIZE)
    parser.add_argument("--seed", type=int, default=SEED)
    print(json.dumps(make_llm(**vars(parser.parse_args(arguments))), indent=2))


if __name__ == "__main__":
    main()
