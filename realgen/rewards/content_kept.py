"""Content kept: whether a rewritten prompt keeps the content of the user's prompt and invents none."""

import math
from collections.abc import Sequence

from realgen.rewards.text_reward import TextReward
from realgen.rewards.word_overlap import content_kept, invented, words


class ContentKept(TextReward):
    """max(0, share of the prompt's content words that the answer has - penalty * number of invented subjects).

    Content words are all but function words, without case and plural (``realgen.rewards.word_overlap``, English; words
    of other languages count as they are written). A synonym or a translation counts as lost. 0 where the completion
    broke the format, 1 where the prompt was not rewritten. ValueError if a subject has no words, or ``penalty`` is
    negative or not finite.

    Args:
        subjects: Words or phrases for what an image may show; one that is in the answer and not in the prompt is
            invented. List no words of light, lens and style, nor others that a rewrite may add.
        penalty: Loss for each invented subject, finite and >= 0.
    """

    def __init__(self, subjects: list[str] | None = None, penalty: float = 0.5) -> None:
        for subject in subjects or []:
            if not words(subject):
                raise ValueError(f"subjects must be words or phrases, got {subject!r}.")
        if not 0 <= penalty < math.inf:
            raise ValueError(f"penalty must be finite and >= 0, got {penalty}.")
        self.subjects, self.penalty = list(subjects or []), penalty

    def score_answers(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Return the score of each prompt and its answer."""
        return [
            max(content_kept(prompt, answer) - self.penalty * len(invented(self.subjects, prompt, answer)), 0.0)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
