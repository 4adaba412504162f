"""Format: whether a completion has its reasoning and its answer between the requested tags."""

from collections.abc import Sequence

from realgen.rewards.text_reward import TextReward


class RewriteFormat(TextReward):
    """1 where the completion kept to the think/answer format, else 0; 1 where the prompt was not rewritten."""

    def score_answers(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Return 1 for each, as there is no answer without the format."""
        return [1.0] * len(answers)
