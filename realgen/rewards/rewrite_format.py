"""Format: whether a language model thought and answered between the tags it was told."""

from __future__ import annotations

from collections.abc import Sequence

from realgen.rewards.text_reward import TextReward


class RewriteFormat(TextReward):
    """1 where the completion kept to the think/answer format, else 0; 1 where the language model was not asked."""

    def judge(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """1 for each: without the format there is no answer."""
        return [1.0] * len(answers)
