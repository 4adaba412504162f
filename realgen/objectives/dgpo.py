"""DGPO: a preference of the better samples of a group over the worse ones, as one logistic loss."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.objectives.forward_process import ForwardProcess, uniform_error
from realgen.types import Minibatch, PolicyScore


class DGPO(ForwardProcess):
    """Direct group preference optimisation (arXiv:2510.08425).

    With d the squared error of the policy's velocity and of the reference's, a group's score at a draw is s = beta
    mean_i A_i (d_i - d_ref_i), and the loss of a draw sigmoid(s) A d, without gradient through the sigmoid. A draw must
    be the same for a whole group: ``draws.shared``. Departure: s is taken once an iteration, with the weights that
    sampled, which in its first update are the same. ValueError if a number is out of its range.

    Args:
        beta: Sharpness of the preference, > 0.
        error_clip: A good sample is left alone once exp(-d) is larger by this share than it was, a bad one once it is
            smaller by it; above 0 to 1.
        **settings: Of ``ForwardProcess``.
    """

    needs_reference = uses_groups = True

    def __init__(self, *, beta: float = 100.0, error_clip: float = 1.0, **settings: Any) -> None:
        super().__init__(**settings)
        if not beta > 0:
            raise ValueError(f"beta must be above 0, got {beta}.")
        if not 0 < error_clip <= 1:
            raise ValueError(f"error_clip must be above 0 and at most 1, got {error_clip}.")
        self.beta, self.error_clip = beta, error_clip

    def group_terms(self, batch: Minibatch, group_size: int) -> Float[Tensor, "rows decisions"]:
        """Return sigmoid(s) of each row's group at each draw."""
        gained = uniform_error(batch.sampled) - uniform_error(batch.reference)
        scores = (batch.advantages.unsqueeze(1) * gained).unflatten(0, (-1, group_size))  # [P, G, S]
        return (self.beta * scores.mean(1, keepdim=True)).sigmoid().expand_as(scores).flatten(0, 1)

    def surrogate(
        self, ratio: Float[Tensor, "rows decisions"], score: PolicyScore, batch: Minibatch
    ) -> Float[Tensor, "rows decisions"]:
        """Return the weighted error of each draw, without gradient where it has moved far enough."""
        assert batch.group_terms is not None
        advantages, error = batch.advantages.unsqueeze(1), uniform_error(score)
        moved = (uniform_error(batch.sampled) - error).detach().exp()
        done = torch.where(advantages > 0, moved > 1 + self.error_clip, moved < 1 - self.error_clip)
        return batch.group_terms * advantages * torch.where(done, error.detach(), error)
