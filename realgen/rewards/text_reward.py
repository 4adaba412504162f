"""The shared part of the rewards on rewritten prompts: which rows have an answer to score."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.rewards.base import Reward
from realgen.types import Samples


class TextReward(Reward):
    """Scores the answers of a language model, in [0, 1], without looking at images.

    A row whose completion broke the format has no answer and gets 0, or the user's prompt, which was drawn instead,
    would be rewarded for keeping all of its own words. A row that was not rewritten gets 1: in a group of rewrites it
    is the prompt that the others have to beat.
    """

    @abstractmethod
    def score_answers(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Return one number in [0, 1] for each answer; ``prompts`` are the user's, of the same rows."""

    def overlaps(self, device: torch.device) -> bool:
        """Return whether the policy leaves the CPU free, which computes this."""
        return device.type != "cpu"

    def score(self, samples: Samples) -> Float[Tensor, " rows"]:
        """Return one number in [0, 1] per row [B]; raise ValueError if the samples have no rewrites."""
        rewrites = samples.rewrites
        if rewrites is None:
            raise ValueError(
                f"{type(self).__name__} scores rewritten prompts, and the rollout has none: it needs a policy that "
                "rewrites, such as realgen.policies.PromptPolicy (configs/policies/llm_nano.yaml)."
            )
        answered = [row for row, rewrite in enumerate(rewrites) if rewrite.formatted]
        prompts, scores = samples.row_prompts, torch.tensor([float(rewrite.skipped) for rewrite in rewrites])
        texts = [rewrites[row].text for row in answered]
        scores[answered] = torch.tensor(self.score_answers([prompts[row] for row in answered], texts))
        return scores.to(samples.images.device)
