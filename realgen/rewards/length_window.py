"""Length: whether a rewritten prompt is neither too short nor too long."""

from collections.abc import Sequence

from realgen.rewards.text_reward import TextReward
from realgen.rewards.word_overlap import words


class LengthWindow(TextReward):
    """1 where the answer has ``shortest`` to ``longest`` words, and max(0, 1 - slope * d) with d words outside.

    Where a script has no spaces between words each letter counts as one. 0 where the completion broke the format, 1
    where the prompt was not rewritten. ValueError if a number is out of its range.

    Args:
        shortest: Fewest words, at least 1.
        longest: Most words, at least ``shortest``. The image model's text encoder is a limit: CLIP reads 77 tokens,
            about 50 words.
        slope: Loss for each word outside, above 0.
    """

    def __init__(self, shortest: int, longest: int, slope: float = 0.1) -> None:
        if not 1 <= shortest <= longest:
            raise ValueError(f"shortest must be 1 to longest, got {shortest} with longest={longest}.")
        if not slope > 0:
            raise ValueError(f"slope must be above 0, got {slope}.")
        self.shortest, self.longest, self.slope = shortest, longest, slope

    def score_answers(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Return the score of each answer's number of words."""
        counts = [len(words(answer)) for answer in answers]
        outside = [max(self.shortest - count, count - self.longest, 0) for count in counts]
        return [max(1.0 - self.slope * distance, 0.0) for distance in outside]
