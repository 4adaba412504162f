"""Suffix diversity: whether a language model finds words for each prompt, or adds the same ones everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from realgen.checks import check_at_least
from realgen.rewards.text_reward import TextReward
from realgen.rewards.word_overlap import added_ngrams, mean_overlaps


class SuffixDiversity(TextReward):
    """1 - mean over the other rewrites j of |A_i & A_j| / |A_i|, where A_i holds the n-grams that rewrite i added.

    Added are the content words of the answer that its prompt does not have. One suffix copied everywhere gets 0, words
    that no other rewrite added get 1; adding nothing counts as one n-gram, which all that add nothing share. The others
    are all different rewrites of all prompts of the samples: a rewrite that stands in several rows of its prompt, as
    when several images of it are drawn, counts once. 0 where the completion broke the format, 1 where the language
    model was not asked. So it depends on what is judged together: with ``prompts_per_chunk`` a rewrite is held against
    those of its chunk, at validation against those of its batch.

    Args:
        length: n, at least 1. Longer n-grams forgive common words in other company.

    Raises:
        ValueError: If ``length`` is below 1.
    """

    def __init__(self, length: int = 2) -> None:
        check_at_least(1, length=length)
        self.length = length

    def judge(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Of each answer beside all others."""
        rows = list(zip(prompts, answers, strict=True))
        distinct = list(dict.fromkeys(rows))
        overlaps = mean_overlaps([added_ngrams(prompt, answer, self.length) for prompt, answer in distinct])
        diversity = dict(zip(distinct, (1 - overlap for overlap in overlaps), strict=True))
        return [diversity[row] for row in rows]
