"""From completions to rewrites, and the statistics of rewrites."""

from collections.abc import Sequence

import torch

from realgen.functional.policy_loss import masked_mean
from realgen.policies.chat import Chat, parse_answer
from realgen.policies.text_engine import Completions
from realgen.types import Rewrite, Rollout


def read_rewrites(
    prompts: Sequence[str], chats: Sequence[Sequence[int]], completions: Completions, chat: Chat
) -> list[Rewrite]:
    """Return each row's answer, or the user's prompt where there is none, or no chat in ``chats``."""
    rewrites = []
    for row, (prompt, tokens_before) in enumerate(zip(prompts, chats, strict=True)):
        tokens = completions.tokens[row, completions.mask[row]].tolist()
        ended = bool(completions.ended[row])
        text = chat.decode(tokens[:-1] if ended else tokens) if tokens_before else ""
        answer = parse_answer(text, chat.special)
        rewrites.append(
            Rewrite(
                text=prompt if answer is None else answer,
                completion=text,
                formatted=answer is not None,
                truncated=bool(tokens_before) and not ended,
                skipped=not tokens_before,
            )
        )
    return rewrites


def rewrite_statistics(rollout: Rollout) -> dict[str, float]:
    """Return statistics of a rollout of ``PromptPolicy``.

    ``skipped_rate`` is the share of rows without a completion: raw samples and prompts that could not be rewritten.
    Over the other rows: ``format_rate`` and ``truncated_rate``, shares (0 if there are no such rows), and
    ``completion_tokens``, a mean. ``distinct_rate``: different texts over rows. ``entropy``: mean over the tokens in
    nats. ``sampler_gap_max``: largest difference between a token's log-probability when it was drawn with the
    key-value cache and when it was scored, where the rollout was.
    """
    rewrites, mask = rollout.rewrites or (), rollout.mask
    written = [rewrite for rewrite in rewrites if not rewrite.skipped]
    counts = {
        "format_rate": sum(rewrite.formatted for rewrite in written),
        "truncated_rate": sum(rewrite.truncated for rewrite in written),
        "completion_tokens": int(mask.sum()),
    }
    assert rollout.sampled is not None  # the decisions are tokens
    drawn, scored = rollout.policy_state["sampler_log_probs"], rollout.sampled.log_probs
    gap = {} if scored is drawn else {"sampler_gap_max": float(torch.where(mask, (drawn - scored).abs(), 0).amax())}
    return {
        **{name: count / max(len(written), 1) for name, count in counts.items()},
        "skipped_rate": 1 - len(written) / len(rewrites),
        "distinct_rate": len({rewrite.text for rewrite in rewrites}) / len(rewrites),
        "entropy": float(masked_mean(rollout.policy_state["entropy"], mask)),
        **gap,
    }
