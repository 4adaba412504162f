"""Suffix diversity: whether a language model adds words that suit the prompt, or the same ones to all prompts."""

from collections.abc import Sequence

from realgen.checks import check_at_least
from realgen.rewards.text_reward import TextReward
from realgen.rewards.word_overlap import added_ngrams, mean_overlaps


class SuffixDiversity(TextReward):
    """1 - mean over the other rewrites j of |A_i & A_j| / |A_i|, where A_i holds the n-grams that rewrite i added.

    Added are the content words of the answer that its prompt does not have. One suffix copied everywhere gets 0, words
    that no other rewrite added get 1; adding nothing counts as one n-gram, which all that add nothing share. The others
    are all distinct rewrites of all prompts of the samples: a rewrite in several rows of its prompt, as when several
    images of it are drawn, counts once. 0 where the completion broke the format, 1 where the prompt was not rewritten.
    It depends on what is scored together: with ``prompts_per_chunk`` a rewrite is compared with those of its chunk, at
    validation with those of its batch.

    Args:
        length: n, at least 1. Longer n-grams let common words pass in other contexts.
    """

    def __init__(self, length: int = 2) -> None:
        check_at_least(1, length=length)
        self.length = length

    def score_answers(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Return the diversity of each answer among all others."""
        rows = list(zip(prompts, answers, strict=True))
        distinct = list(dict.fromkeys(rows))
        overlaps = mean_overlaps([added_ngrams(prompt, answer, self.length) for prompt, answer in distinct])
        diversity = dict(zip(distinct, (1 - overlap for overlap in overlaps), strict=True))
        return [diversity[row] for row in rows]
