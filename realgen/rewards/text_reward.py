"""What the rewards on rewritten prompts share: which rows have an answer to judge."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.rewards.base import Reward
from realgen.types import Samples


class TextReward(Reward):
    """Judges the answers of a language model, in [0, 1]; images play no part.

    A row whose completion broke the format has no answer and gets 0: the user's prompt, which was drawn instead, shall
    earn nothing by keeping all words of itself. A row whose language model was not asked gets 1: nobody wrote it, so
    there is nothing to hold against it, and in a group of rewrites it stands for the prompt that they have to beat.
    """

    @abstractmethod
    def judge(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """One number in [0, 1] for each answer; ``prompts`` are the user's, of the same rows."""

    def score(self, samples: Samples) -> Float[Tensor, " rows"]:
        """One number per row [B].

        Args:
            samples: Of a policy that rewrites prompts.

        Returns:
            In [0, 1].

        Raises:
            ValueError: If the rollout has no rewrites.
        """
        rewrites = samples.rewrites
        if rewrites is None:
            raise ValueError(
                f"{type(self).__name__} judges rewritten prompts, and the rollout has none: it needs a policy that "
                "rewrites, such as realgen.policies.PromptPolicy (configs/policies/llm_nano.yaml)."
            )
        answered = [row for row, rewrite in enumerate(rewrites) if rewrite.formatted]
        prompts, scores = samples.row_prompts, torch.tensor([float(rewrite.skipped) for rewrite in rewrites])
        judged = self.judge([prompts[row] for row in answered], [rewrites[row].text for row in answered])
        scores[answered] = torch.tensor(judged)
        return scores.to(samples.images.device)
