"""From completions to rewrites, and what there is to say of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from realgen.functional.policy_loss import masked_mean
from realgen.policies.chat import Chat
from realgen.policies.completion import parse_answer
from realgen.policies.token_sampler import Completions
from realgen.types import Rewrite, Rollout


def read_rewrites(
    prompts: Sequence[str], chats: Sequence[Sequence[int]], completions: Completions, chat: Chat
) -> list[Rewrite]:
    """The answers, and the user's own prompts where there is none.

    Args:
        prompts: Of each row, as the user wrote them.
        chats: Tokens that each row went on from; none where its prompt could not be rewritten.
        completions: What the rows wrote.
        chat: Turns tokens into text.

    Returns:
        One rewrite per row.
    """
    rewrites = []
    for row, (prompt, asked) in enumerate(zip(prompts, chats, strict=True)):
        tokens = completions.tokens[row, completions.mask[row]].tolist()
        ended = bool(completions.ended[row])
        text = chat.decode(tokens[:-1] if ended else tokens) if asked else ""
        answer = parse_answer(text, chat.special)
        rewrites.append(
            Rewrite(
                text=prompt if answer is None else answer,
                completion=text,
                formatted=answer is not None,
                truncated=bool(asked) and not ended,
                skipped=not asked,
            )
        )
    return rewrites


def rewrite_statistics(rollout: Rollout) -> dict[str, float]:
    """What a rollout of rewrites tells, as shares of its rows unless said otherwise.

    Args:
        rollout: Of ``PromptPolicy``.

    Returns:
        ``format_rate`` and ``truncated_rate``, shares of the rows that the language model was asked for, 0 where it was
        asked for none; ``skipped_rate``, of the others: raw samples and prompts that could not be rewritten;
        ``distinct_rate``, different texts over rows; ``completion_tokens``, a mean over the rows that were asked for;
        ``entropy``, a mean over the tokens in nats; and ``sampler_gap_max``, the largest difference between the
        log-probability of a token when it was drawn with the key-value cache and when it was scored.
    """
    rewrites, mask = rollout.rewrites or (), rollout.mask
    asked = [rewrite for rewrite in rewrites if not rewrite.skipped]
    counts = {
        "format_rate": sum(rewrite.formatted for rewrite in asked),
        "truncated_rate": sum(rewrite.truncated for rewrite in asked),
        "completion_tokens": int(mask.sum()),
    }
    gap = (rollout.policy_state["sampler_log_probs"] - rollout.sampled.log_probs).abs()
    return {
        **{name: count / max(len(asked), 1) for name, count in counts.items()},
        "skipped_rate": 1 - len(asked) / len(rewrites),
        "distinct_rate": len({rewrite.text for rewrite in rewrites}) / len(rewrites),
        "entropy": float(masked_mean(rollout.policy_state["entropy"], mask)),
        "sampler_gap_max": float(torch.where(mask, gap, 0).amax()),
    }
